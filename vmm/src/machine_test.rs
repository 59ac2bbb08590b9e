//! Machines that really run, with guests of a few instructions. They need /dev/kvm, but no fast one: a host that emulates each
//! instruction will do. Without it the tests say so and pass; the guests of `tests/` run on every host.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use vmm_sys_util::tempfile::TempFile;

use super::*;

const LOAD_ADDRESS: u64 = 0x20_0000;
const PROBE: u64 = 0x500;

/// `mov dx, port`.
fn port(port: u16) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xBA, low, high]
}

/// `mov al, value; out dx, al`.
fn out(to: u16, value: u8) -> Vec<u8> {
    [port(to), vec![0xB0, value, 0xEE]].concat()
}

/// S5 by PM1 control: `mov ax, 0x3400; out dx, ax; hlt`.
fn power_off() -> Vec<u8> {
    [port(pm::CONTROL), vec![0x66, 0xB8, 0x00, 0x34, 0x66, 0xEF], halt()].concat()
}

fn reset() -> Vec<u8> {
    [out(pm::RESET, pm::RESET_VALUE), halt()].concat()
}

/// `1: hlt; jmp 1b`.
fn halt() -> Vec<u8> {
    vec![0xF4, 0xEB, 0xFD]
}

/// An ELF that is nothing but `code`.
fn kernel(code: &[u8]) -> TempFile {
    let mut image = vec![0; 64 + 56];
    image[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    (image[16], image[18], image[32], image[54], image[56]) = (2, 62, 64, 56, 1);
    image[24..32].copy_from_slice(&LOAD_ADDRESS.to_le_bytes());
    image[64] = 1;
    image[72] = 120;
    image[88..96].copy_from_slice(&LOAD_ADDRESS.to_le_bytes());
    image[96..98].copy_from_slice(&(code.len() as u16).to_le_bytes());
    image[104..106].copy_from_slice(&(code.len() as u16).to_le_bytes());
    image.extend_from_slice(code);
    let file = TempFile::new().unwrap();
    std::io::Write::write_all(&mut file.as_file(), &image).unwrap();
    file
}

/// Ports that remember what is written, and that count their resets.
#[derive(Default)]
struct Probe {
    written: Mutex<Vec<(u64, Vec<u8>)>>,
    resets: Mutex<u8>,
}

impl BusDevice for Probe {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(*self.resets.lock().unwrap());
    }
    fn write(&self, address: u64, data: &[u8]) {
        self.written.lock().unwrap().push((address, data.to_vec()));
    }
    fn reset(&self) {
        *self.resets.lock().unwrap() += 1;
    }
}

fn config(kernel: PathBuf) -> Config {
    Config {
        memory: 4 << 20,
        cpus: 1,
        kernel,
        initrd: None,
        command_line: String::new(),
        no_reboot: false,
        name: None,
        serial_stdio: false,
    }
}

/// A machine with a probe, or `None` where there is no KVM.
fn machine(code: &[u8], change: impl Fn(&mut Config)) -> Option<(Machine, Arc<Probe>)> {
    let file = kernel(code);
    let mut config = config(file.as_path().to_owned());
    change(&mut config);
    let mut machine = match Machine::new(&config) {
        Ok(machine) => machine,
        Err(error @ Error::Kvm(_)) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let probe = Arc::new(Probe::default());
    machine.attach_ports(PROBE..PROBE + 4, probe.clone()).unwrap();
    Some((machine, probe))
}

#[test]
fn a_guest_that_powers_off_ends_with_shutdown() {
    let code = [out(0x500, 7), power_off()].concat();
    let Some((mut machine, probe)) = machine(&code, |_| ()) else { return };
    let stopped = Arc::new(Mutex::new(false));
    machine.on_stop({
        let stopped = stopped.clone();
        move || *stopped.lock().unwrap() = true
    });
    assert_eq!(machine.run().unwrap(), ExitReason::Shutdown);
    assert_eq!(*probe.written.lock().unwrap(), [(0x500, vec![7])]);
    assert!(*stopped.lock().unwrap());
}

#[test]
fn a_reset_starts_again_from_the_file() {
    // Overwrites its own first instruction's operand, which a reset must undo; powers off at the third boot:
    // out 0x500, 7 (al at LOAD_ADDRESS + 5); mov byte [LOAD_ADDRESS + 5], 9; in al, dx; cmp al, 4; jae off; reset.
    let mut code = out(0x500, 7);
    code.extend([0xC6, 0x04, 0x25, 0x05, 0x00, 0x20, 0x00, 0x09]);
    code.extend([0xEC, 0x3C, 0x02, 0x73, reset().len() as u8]);
    code.extend(reset());
    code.extend(power_off());
    let Some((machine, probe)) = machine(&code, |_| ()) else { return };
    assert_eq!(machine.run().unwrap(), ExitReason::Shutdown);
    assert_eq!(*probe.written.lock().unwrap(), vec![(0x500, vec![7]); 3]);
}

#[test]
fn a_reset_ends_a_machine_that_may_not_reboot() {
    for code in [reset(), [out(0x64, 0xFE), halt()].concat()] {
        let Some((machine, _)) = machine(&code, |config| config.no_reboot = true) else { return };
        assert_eq!(machine.run().unwrap(), ExitReason::Reset);
    }
}

#[test]
fn a_triple_fault_is_an_error_and_not_a_hang() {
    // Loads an empty IDT (its limit and base are zeros in page 0) and divides by zero: lidt [0]; xor ecx, ecx; div ecx.
    let code = [0x0F, 0x01, 0x1C, 0x25, 0, 0, 0, 0, 0x31, 0xC9, 0xF7, 0xF1];
    let Some((machine, _)) = machine(&code, |_| ()) else { return };
    let error = machine.run().unwrap_err();
    assert!(matches!(error, Error::Guest(cpu::Fault::TripleFault { cpu: 0, .. })), "{error}");
}

#[test]
fn string_output_reaches_the_device_item_by_item() {
    // mov esi, LOAD_ADDRESS; mov ecx, 3; rep outsw.
    let mut code = port(0x502);
    code.extend([0xBE, 0x00, 0x00, 0x20, 0x00, 0xB9, 0x03, 0x00, 0x00, 0x00, 0xF3, 0x66, 0x6F]);
    code.extend(power_off());
    let Some((machine, probe)) = machine(&code, |_| ()) else { return };
    assert_eq!(machine.run().unwrap(), ExitReason::Shutdown);
    let expected: Vec<_> = code[..6].chunks(2).map(|item| (0x502, item.to_vec())).collect();
    assert_eq!(*probe.written.lock().unwrap(), expected);
}

#[test]
fn vcpus_that_never_leave_the_guest_are_stopped() {
    // Vcpu 0 spins, the others wait for a SIPI that never comes.
    for code in [vec![0xEB, 0xFE], halt()] {
        let Some((machine, _)) = machine(&code, |config| config.cpus = 4) else { return };
        let control = machine.control.clone();
        let operator = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            control.ask(Request::Quit);
        });
        let started = Instant::now();
        assert_eq!(machine.run().unwrap(), ExitReason::Quit);
        assert!(started.elapsed() < Duration::from_secs(20));
        operator.join().unwrap();
    }
}

#[test]
fn two_hundred_machines_leave_nothing_behind() {
    fn descriptors() -> usize {
        // Eventpoll, eventfd, signalfd and KVM descriptors only: other tests open files of their own meanwhile.
        let kinds = ["anon_inode:kvm", "/dev/kvm"];
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| kinds.iter().any(|kind| target.to_string_lossy().starts_with(kind)))
            .count()
    }
    // In a process of its own, so that the numbers are this test's only.
    if std::env::var_os("VMM_TEST_ALONE").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "machine::tests::two_hundred_machines_leave_nothing_behind"])
            .env("VMM_TEST_ALONE", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut baseline = 0;
    for boot in 0..200 {
        let Some((machine, _)) = machine(&power_off(), |config| config.cpus = 2) else { return };
        assert_eq!(machine.run().unwrap(), ExitReason::Shutdown);
        if boot == 20 {
            baseline = resident();
        }
    }
    assert_eq!(descriptors(), 0);
    assert_eq!(std::fs::read_dir("/proc/self/task").unwrap().count(), 2, "this thread and the harness's");
    assert!(resident() < baseline + (4 << 20), "{} after {baseline}", resident());
}

#[test]
fn more_vcpus_than_the_host_allows_is_an_error() {
    let file = kernel(&power_off());
    let mut config = config(file.as_path().to_owned());
    config.cpus = 255;
    match Machine::new(&config).err() {
        Some(Error::Kvm(error)) => eprintln!("{error}"),
        Some(error) => panic!("{error}"),
        // A host that allows as many.
        None => {}
    }
}
