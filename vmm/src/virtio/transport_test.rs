//! The transport against a driver that does everything right, and some things wrong: see `transport.rs`.

use super::fake_driver::{FakeDriver, FakeMachine, HOLE, MESSAGE_ADDRESS, MESSAGE_DATA, SEAM, writable};
use super::{Rng, feature};
use crate::pci::{command, gsi};

fn machine() -> FakeMachine {
    let machine = FakeMachine::new();
    Rng::attach(&machine.root, machine.memory.clone(), Some(5)).unwrap();
    machine
}

fn asks_for_randomness(driver: &FakeDriver<'_>) {
    let mut queue = driver.set_up_queue(0, 8, false);
    driver.start();
    let buffer = driver.machine.place(&[0; 64]);
    let head = queue.add(&[writable(buffer, 64)]);
    driver.notify(0);
    assert_eq!(queue.take_used(), Some((head, 64)));
    assert_ne!(driver.machine.bytes(buffer, 64), [0; 64]);
}

#[test]
fn a_driver_finds_the_device_and_gets_randomness() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    assert_eq!(driver.device_id(), 0x1044);
    driver.negotiate(feature::TRANSPORT);
    asks_for_randomness(&driver);
}

#[test]
fn a_request_is_filled_up_to_the_limit() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.negotiate(0);
    let mut queue = driver.set_up_queue(0, 8, false);
    driver.start();
    let buffer = machine.allocate(10_000);
    queue.add(&[writable(buffer, 100), writable(buffer + 100, 9000)]);
    driver.notify(0);
    assert_eq!(queue.take_used().unwrap().1, 4096);
}

#[test]
fn a_buffer_may_cross_a_seam_of_memory_but_not_a_hole() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.negotiate(0);
    let mut queue = driver.set_up_queue(0, 8, false);
    driver.start();
    queue.add(&[writable(SEAM - 20, 40)]);
    queue.add(&[writable(HOLE - 20, 40)]);
    driver.notify(0);
    assert_eq!(queue.take_used().unwrap().1, 40);
    assert_ne!(machine.bytes(SEAM - 20, 20), [0; 20]);
    assert_ne!(machine.bytes(SEAM, 20), [0; 20]);
    assert_eq!(queue.take_used().unwrap().1, 0);
    assert_eq!(machine.bytes(HOLE - 20, 20), [0; 20]);
    assert!(!driver.needs_reset());
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.reset();
    driver.set_status(3);
    driver.write_features(feature::VERSION_1 | 1 << 40);
    driver.set_status(3 | 8);
    assert_eq!(driver.status(), 3);
    driver.write_features(feature::INDIRECT_DESC);
    driver.set_status(3 | 8);
    assert_eq!(driver.status(), 3, "not a modern driver");
    driver.write_features(feature::VERSION_1);
    driver.set_status(3 | 8);
    assert_eq!(driver.status(), 11);
    driver.write_features(0);
    driver.write_common(8, &1u32.to_le_bytes());
    assert_eq!(driver.read_common(12), 1u32.to_le_bytes(), "features are fixed now");
}

#[test]
fn a_driver_that_skips_features_ok_gets_nothing() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.reset();
    let mut queue = driver.set_up_queue(0, 8, false);
    driver.set_status(1 | 2 | 4);
    queue.add(&[writable(machine.allocate(64), 64)]);
    driver.notify(0);
    assert_eq!(queue.take_used(), None);
}

#[test]
fn without_msix_the_pin_is_asserted_until_the_isr_is_read() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    let line = gsi(5, 0);
    assert_eq!(machine.config_u8(5, 0x3c), line as u8);
    assert_eq!(machine.config_u8(5, 0x3d), 1);
    driver.negotiate(0);
    asks_for_randomness(&driver);
    assert!(machine.hypervisor.line(line));
    assert_eq!(machine.config_u16(5, 6) & 8, 8, "interrupt status");
    driver.set_command(command::MEMORY | command::MASTER | command::INTX_DISABLE);
    assert!(!machine.hypervisor.line(line));
    driver.set_command(command::MEMORY | command::MASTER);
    assert!(machine.hypervisor.line(line));
    assert_eq!(driver.isr(), 1);
    assert!(!machine.hypervisor.line(line));
    assert_eq!(driver.isr(), 0);
    assert_eq!(machine.config_u16(5, 6) & 8, 0);
}

#[test]
fn with_msix_each_queue_has_its_message() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.negotiate(0);
    driver.enable_msix(2);
    asks_for_randomness(&driver);
    assert_eq!(machine.hypervisor.messages(), [(MESSAGE_ADDRESS, MESSAGE_DATA + 1)]);
    assert!(!machine.hypervisor.line(gsi(5, 0)));
    assert_eq!(driver.isr(), 0);
}

#[test]
fn a_vector_that_does_not_exist_reads_back_as_none() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.write_common(16, &2u16.to_le_bytes());
    assert_eq!(driver.read_common(16), [0xff, 0xff]);
    driver.select_queue(7);
    driver.write_common(26, &0u16.to_le_bytes());
    assert_eq!(driver.read_common(26), [0xff, 0xff], "no such queue");
    assert_eq!(driver.read_common(24), [0, 0], "no such queue");
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.negotiate(0);
    let mut queue = driver.set_up_queue(0, 8, false);
    driver.start();
    queue.set_no_interrupt(true);
    queue.add(&[writable(machine.allocate(64), 64)]);
    driver.notify(0);
    assert!(queue.take_used().is_some());
    assert!(!machine.hypervisor.line(gsi(5, 0)));
}

#[test]
fn a_queue_outside_memory_needs_a_reset_and_recovers_by_one() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    for (register, address) in [(32, HOLE), (40, u64::MAX - 1), (48, HOLE - 4), (32, 0x1008)] {
        driver.negotiate(0);
        driver.select_queue(0);
        driver.write_common(register, &address.to_le_bytes());
        driver.write_common(28, &1u16.to_le_bytes());
        driver.start();
        assert!(driver.needs_reset(), "{register}: {address:#x}");
        driver.notify(0);
    }
    driver.negotiate(0);
    assert!(!driver.needs_reset());
    asks_for_randomness(&driver);
}

#[test]
fn a_queue_has_only_sizes_that_are_powers_of_two() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.negotiate(0);
    driver.select_queue(0);
    for size in [0u16, 3, 63, 128, 0xffff] {
        driver.write_common(24, &size.to_le_bytes());
        assert_eq!(u16::from_le_bytes(driver.read_common(24)), 64, "{size}");
    }
    driver.write_common(24, &16u16.to_le_bytes());
    assert_eq!(u16::from_le_bytes(driver.read_common(24)), 16);
}

#[test]
fn the_bar_can_be_reached_through_configuration_space() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.set_command(0);
    let window = driver.window;
    let access = |offset: u32, len: u32| {
        machine.config_write(5, window + 4, &[0]);
        machine.config_write(5, window + 8, &offset.to_le_bytes());
        machine.config_write(5, window + 12, &len.to_le_bytes());
    };
    access(20, 1);
    machine.config_write(5, window + 16, &[1]);
    assert_eq!(machine.config_u8(5, window + 16), 1, "the device status");
    access(18, 2);
    assert_eq!(machine.config_u16(5, window + 16), 1, "the number of queues");
    for (offset, len) in [(18, 3), (1, 4), (0x8000, 4), (u32::MAX - 3, 4), (20, 0)] {
        access(offset, len);
        machine.config_u32(5, window + 16);
        machine.config_write(5, window + 16, &[0xff; 4]);
    }
    driver.set_command(command::MEMORY);
    assert_eq!(driver.status(), 1);
}

#[test]
fn without_bus_mastering_nothing_is_written() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.negotiate(0);
    let mut queue = driver.set_up_queue(0, 8, false);
    driver.start();
    driver.set_command(command::MEMORY);
    queue.add(&[writable(machine.allocate(64), 64)]);
    driver.notify(0);
    assert_eq!(queue.take_used(), None);
    driver.set_command(command::MEMORY | command::MASTER);
    driver.notify(0);
    assert!(queue.take_used().is_some());
}

#[test]
fn a_machine_reset_disables_the_device_and_forgets_the_driver() {
    let machine = machine();
    let driver = FakeDriver::probe(&machine, 5);
    driver.negotiate(0);
    driver.enable_msix(2);
    asks_for_randomness(&driver);
    machine.root.reset();
    assert_eq!(machine.config_u16(5, 4), 0);
    assert_eq!(machine.config_u16(5, driver.msix + 2), 1);
    let driver = FakeDriver::probe(&machine, 5);
    assert_eq!(driver.status(), 0);
    driver.negotiate(0);
    asks_for_randomness(&driver);
}
