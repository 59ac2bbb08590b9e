//! What a vcpu answers to CPUID: the host's supported leaves with this vcpu's identity and the machine's topology.
//!
//! The topology is one package of `cpus` cores without hyper-threading, on Intel leaves (SDM vol. 2A "CPUID": 1, 4, 0xB, 0x1F)
//! and on AMD's (APM vol. 3 appendix E: 0x8000_0001, 0x8000_0008, 0x8000_001D, 0x8000_001E). Everything else, KVM's own
//! leaves at 0x4000_0000 included (paravirtual clock, TLB flush, EOI), passes through. Pure; `cpu.rs` calls it.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Which vcpu of how many is meant, and what KVM offers beside CPUID.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Local APIC id, below `cpus`.
    pub apic_id: u8,
    /// Number of vcpus, 1 to 254.
    pub cpus: u8,
    /// The APIC timer has TSC-deadline mode.
    pub tsc_deadline: bool,
}

/// Turns the supported leaves into the ones of one vcpu.
pub fn for_vcpu(supported: &[kvm_cpuid_entry2], identity: Identity) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported.iter().copied().filter(|entry| !matches!(entry.function, 0xB | 0x1F)).collect();
    let highest = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    let amd = is_amd(&entries);
    for entry in &mut entries {
        adjust(entry, identity, amd);
    }
    for leaf in [0xB, 0x1F] {
        if highest >= leaf {
            entries.extend(topology(leaf, identity));
        }
    }
    entries
}

/// How many low bits of an APIC id tell the cores of the package apart.
fn core_bits(cpus: u8) -> u32 {
    u8::BITS - (cpus - 1).leading_zeros()
}

fn adjust(entry: &mut kvm_cpuid_entry2, identity: Identity, amd: bool) {
    let Identity { apic_id, cpus, tsc_deadline } = identity;
    let others = u32::from(cpus) - 1;
    match entry.function {
        1 => {
            // EBX: initial APIC id, ids in the package, CLFLUSH line in 8-byte units (kept). ECX: x2APIC, TSC deadline,
            // hypervisor. EDX: HTT, which says that the count of ids is valid.
            entry.ebx = (entry.ebx & 0xffff) | (u32::from(apic_id) << 24) | (u32::from(cpus) << 16);
            entry.ecx |= (1 << 21) | (1 << 31);
            set(&mut entry.ecx, 24, tsc_deadline);
            set(&mut entry.edx, 28, cpus > 1);
        }
        // EAX: cache type, 0 ends the list. Cores in the package; level 1 and 2 caches are a core's own.
        4 if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { others } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14) | (others.min(0x3f) << 26);
        }
        // ECX: CmpLegacy, cores rather than threads; reserved on Intel.
        0x8000_0001 if amd => set(&mut entry.ecx, 1, cpus > 1),
        // ECX: cores, and bits of an APIC id within the package; reserved on Intel.
        0x8000_0008 if amd => {
            entry.ecx = (entry.ecx & !0xf0ff) | others | (core_bits(cpus) << 12);
        }
        0x8000_001D if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { others } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
        }
        // Extended APIC id; core id, one thread each; node 0 of one.
        0x8000_001E => {
            entry.eax = u32::from(apic_id);
            entry.ebx = u32::from(apic_id);
            entry.ecx = 0;
            entry.edx = 0;
        }
        _ => {}
    }
}

/// Whether leaf 0 says AuthenticAMD or HygonGenuine; EBX has the first four letters.
fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    let vendor = entries.iter().find(|entry| entry.function == 0).map(|entry| entry.ebx.to_le_bytes());
    matches!(vendor.as_ref(), Some(b"Auth" | b"Hygo"))
}

/// Leaves 0xB and 0x1F: the thread level, the core level, and the end.
fn topology(leaf: u32, identity: Identity) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: (kind << 8) | index,
        edx: u32::from(identity.apic_id),
        ..Default::default()
    };
    [level(0, 0, 1, THREAD), level(1, core_bits(identity.cpus), u32::from(identity.cpus), CORE), level(2, 0, 0, 0)]
}

fn set(register: &mut u32, bit: u32, value: bool) {
    *register = (*register & !(1 << bit)) | (u32::from(value) << bit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries.iter().find(|entry| entry.function == function && entry.index == index).unwrap()
    }

    fn supported() -> Vec<kvm_cpuid_entry2> {
        let mut entries = vec![leaf(0, 0), leaf(1, 0), leaf(4, 0), leaf(4, 3), leaf(0xB, 0)];
        entries[0].eax = 0x1F;
        entries[1].ebx = 0x7700_0800;
        entries[2].eax = 0x121;
        entries[3].eax = 0x163;
        entries.extend([leaf(0x4000_0000, 0), leaf(0x8000_0001, 0)]);
        entries.extend([leaf(0x8000_0008, 0), leaf(0x8000_001E, 0)]);
        entries
    }

    fn entries(apic_id: u8, cpus: u8) -> Vec<kvm_cpuid_entry2> {
        for_vcpu(&supported(), Identity { apic_id, cpus, tsc_deadline: true })
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id_in_every_leaf() {
        for id in 0..4 {
            let entries = entries(id, 4);
            let id = u32::from(id);
            assert_eq!(find(&entries, 1, 0).ebx, (id << 24) | (4 << 16) | 0x0800);
            assert_eq!(find(&entries, 0xB, 0).edx, id);
            assert_eq!(find(&entries, 0xB, 1).edx, id);
            assert_eq!(find(&entries, 0x1F, 1).edx, id);
            assert_eq!(find(&entries, 0x8000_001E, 0).eax, id);
        }
    }

    #[test]
    fn four_cores_share_the_third_cache_level_only() {
        let entries = entries(0, 4);
        assert_eq!(find(&entries, 4, 0).eax >> 14 & 0xfff, 0);
        assert_eq!(find(&entries, 4, 3).eax >> 14 & 0xfff, 3);
        assert_eq!(find(&entries, 4, 3).eax >> 26, 3);
    }

    #[test]
    fn core_bits_cover_every_apic_id() {
        let bits = |cpus| find(&entries(0, cpus), 0xB, 1).eax;
        assert_eq!([1, 2, 3, 4, 5, 128, 129, 254].map(bits), [0, 1, 2, 2, 3, 7, 8, 8]);
    }

    #[test]
    fn one_vcpu_is_no_multiprocessor() {
        assert_eq!(find(&entries(0, 1), 1, 0).edx >> 28 & 1, 0);
        assert_eq!(find(&entries(0, 2), 1, 0).edx >> 28 & 1, 1);
    }

    #[test]
    fn kvm_leaves_pass_through() {
        let mut supported = supported();
        supported[5].ebx = 0x4b4d_564b;
        let identity = Identity { apic_id: 0, cpus: 1, tsc_deadline: false };
        let entries = for_vcpu(&supported, identity);
        assert_eq!(find(&entries, 0x4000_0000, 0).ebx, 0x4b4d_564b);
        assert_eq!(find(&entries, 1, 0).ecx >> 24 & 1, 0);
    }
}
