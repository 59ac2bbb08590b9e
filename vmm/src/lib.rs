//! The KVM machine: memory, vcpus, buses, PCI, boot and network cards.

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod config;
pub mod control;
pub mod cpu;
pub mod cpuid;
pub mod hypervisor;
pub mod kvm;
pub mod legacy;
pub mod machine;
pub mod memory;
mod reason;
pub mod signals;
pub mod terminal;
