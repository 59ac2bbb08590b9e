//! Guests on test hosts: what a user does with a VM on the user-mode NAT, in the VMM's own binary, end to end.
//!
//! Every test leases a shared host (`Host::shared`), boots what it needs and says what has to be true. The world around the guest is
//! drawn in `lab/world.sh`. A new test is a function in the module of its subject:
//!
//! | module | subject |
//! |---|---|
//! | `boot` | kernels, processors, devices, reboot, power off |
//! | `network` | the lease, names, TCP, UDP, ICMP, forwarded ports, several NICs |
//! | `capture` | `-net dump`, read by tshark |
//! | `process` | privileges, terminals, signals, what is left behind |
//! | `refusals` | what cannot work, and the line that says so |
//! | `switch` | guests on our switch |

mod boot;
mod capture;
mod network;
mod process;
mod refusals;
mod switch;

use tests::Vm;

/// A guest with one virtio NIC on the user-mode NAT, spelled out.
fn on_user() -> Vm {
    Vm::new().args("-net nic,model=virtio -net user")
}
