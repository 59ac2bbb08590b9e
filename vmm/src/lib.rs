//! The KVM machine: memory, vcpus, buses, PCI, boot and network cards.

pub mod config;
pub mod hypervisor;
