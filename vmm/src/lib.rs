//! The KVM machine: memory, vcpus, buses, PCI, boot and network cards.
//!
//! | file | what it holds |
//! |---|---|
//! | `cli` `config` | the command line, and what it says, validated |
//! | `machine` `control` | the machine put together, its event loop, how parts of it ask it to stop |
//! | `kvm` `cpu` `cpuid` | the hypervisor and the virtual CPUs |
//! | `memory` `boot` `acpi` | guest RAM, the kernel in it, the tables that describe the rest |
//! | `bus` `legacy` `pci` | where accesses go; the devices a PC always had; the PCI bus |
//! | `virtio` `nic` | the virtio transport and its devices; network cards and their attachment to a link |
//! | `network` | from the plan of the command line to cards on the bus |
//! | `terminal` | the terminal as the guest's console |

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod config;
pub mod control;
pub mod cpu;
pub mod cpuid;
pub mod hypervisor;
pub mod kvm;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod network;
pub mod nic;
pub mod pci;
pub mod terminal;
pub mod virtio;
