//! The meaning of `-net`, `-netdev`, `-nic`, `-device` and `-object filter-dump`: which cards there are, and which backend
//! each is attached to.
//!
//! As in QEMU, all `-net` parts share one hub, a `-netdev` is named by one `-device`, and a `-nic` is both at once. The
//! result is a [`NetworkPlan`]: plain data in which every name has been resolved. A hub of one card and one backend is no
//! hub: the plan then attaches the card to the backend directly.

use std::collections::BTreeMap;

use link::{Locator, LocatorError, MacAddr, Options, PcapConfig};

use super::UsageError;

/// The cards and backends of a machine, every name resolved.
#[derive(Debug, Default)]
pub struct NetworkPlan {
    /// The cards, in the order the guest finds them.
    pub nics: Vec<NicPlan>,
    /// The backends on the shared hub, if cards or backends need one.
    pub hub: Vec<Locator>,
    /// Captures of the hub.
    pub hub_dumps: Vec<PcapConfig>,
    /// What deserves a word to the user: names that nobody uses.
    pub warnings: Vec<String>,
}

/// One network card.
#[derive(Debug)]
pub struct NicPlan {
    /// Its name in messages.
    pub name: String,
    /// Its address.
    pub mac: MacAddr,
    /// The MTU to tell the guest, if any.
    pub mtu: Option<u16>,
    /// Its slot on PCI bus 0, or the next free one.
    pub slot: Option<u8>,
    /// What it is attached to.
    pub attachment: Attachment,
    /// Captures of what passes.
    pub dumps: Vec<PcapConfig>,
}

/// What a card is attached to.
#[derive(Debug)]
pub enum Attachment {
    /// A backend of its own.
    Backend(Locator),
    /// The shared hub.
    Hub,
    /// Nothing: no carrier.
    Nothing,
}

/// The models that exist, by every name users know them by.
const MODELS: &[(&str, &[&str])] = &[("virtio", &["virtio-net-pci", "virtio-net", "virtio-net-pci-non-transitional"])];

/// The address of the first card that has none of its own; the next ones count up, as QEMU's do.
const FIRST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// The network options as given.
#[derive(Default)]
pub(super) struct NetworkOptions {
    nics: Vec<Nic>,
    netdevs: BTreeMap<String, Locator>,
    hub: Vec<Locator>,
    hub_dumps: Vec<PcapConfig>,
    netdev_dumps: Vec<(String, PcapConfig)>,
    no_default: bool,
    help: bool,
}

struct Nic {
    name: Option<String>,
    mac: Option<MacAddr>,
    mtu: Option<u16>,
    slot: Option<u8>,
    peer: Peer,
}

enum Peer {
    Hub,
    Netdev(String),
    Own(Locator),
    Nothing,
}

impl NetworkOptions {
    pub(super) fn take(&mut self, option: &'static str, value: &str) -> Result<(), UsageError> {
        let name_it = |source| UsageError::Locator { option, source };
        let locator = Locator::from_qemu(value);
        match option {
            "nodefaults" => self.no_default = true,
            "net" => self.net(locator).map_err(name_it)?,
            "nic" => self.nic(locator).map_err(name_it)?,
            "netdev" => self.netdev(locator)?,
            "device" => self.device(locator).map_err(name_it)?,
            "object" => self.object(locator).map_err(name_it)?,
            _ => unreachable!("-{option} is in the table but nobody takes it"),
        }
        Ok(())
    }

    fn net(&mut self, mut locator: Locator) -> Result<(), LocatorError> {
        match locator.scheme.as_str() {
            "none" => {
                self.no_default = true;
                locator.options.finish()
            }
            "nic" => {
                let peer = locator.options.take("netdev")?.map_or(Peer::Hub, Peer::Netdev);
                let nic = self.card(&mut locator.options, "macaddr", peer)?;
                self.nics.push(nic);
                locator.options.finish()
            }
            "dump" => {
                let dump = dump(&mut locator.options, "len")?;
                self.hub_dumps.push(dump);
                locator.options.finish()
            }
            _ => {
                locator.options.take("name")?;
                self.hub.push(normalise(locator)?);
                Ok(())
            }
        }
    }

    fn nic(&mut self, mut locator: Locator) -> Result<(), LocatorError> {
        if locator.scheme == "none" {
            self.no_default = true;
            return locator.options.finish();
        }
        let mut nic = self.card(&mut locator.options, "mac", Peer::Nothing)?;
        if let Some(id) = locator.options.take("id")? {
            nic.name = Some(id);
        }
        nic.peer = Peer::Own(normalise(locator)?);
        self.nics.push(nic);
        Ok(())
    }

    fn netdev(&mut self, mut locator: Locator) -> Result<(), UsageError> {
        let name_it = |source| UsageError::Locator { option: "netdev", source };
        let Some(id) = locator.options.take("id").map_err(name_it)? else {
            return Err(UsageError::Network(format!("-netdev {}: id=NAME is needed", locator.scheme)));
        };
        let locator = normalise(locator).map_err(name_it)?;
        match self.netdevs.insert(id.clone(), locator) {
            Some(_) => Err(UsageError::Network(format!("-netdev: duplicate id '{id}'"))),
            None => Ok(()),
        }
    }

    fn device(&mut self, mut locator: Locator) -> Result<(), LocatorError> {
        // The machine always has one random number generator.
        if locator.scheme == "virtio-rng-pci" {
            locator.options.take("id")?;
            return locator.options.finish();
        }
        check_model(&locator.scheme).map_err(|()| LocatorError::UnknownKind(unknown_model(&locator.scheme)))?;
        let peer = locator.options.take("netdev")?.map_or(Peer::Nothing, Peer::Netdev);
        let mut nic = self.card(&mut locator.options, "mac", peer)?;
        if let Some(id) = locator.options.take("id")? {
            nic.name = Some(id);
        }
        self.nics.push(nic);
        locator.options.finish()
    }

    fn object(&mut self, mut locator: Locator) -> Result<(), LocatorError> {
        if locator.scheme != "filter-dump" {
            return Err(LocatorError::UnknownKind(locator.scheme));
        }
        locator.options.take("id")?;
        let netdev = locator.options.take("netdev")?;
        let dump = dump(&mut locator.options, "maxlen")?;
        match netdev {
            Some(netdev) => self.netdev_dumps.push((netdev, dump)),
            None => return Err(LocatorError::NoValue { kind: locator.scheme, key: "netdev".to_owned() }),
        }
        locator.options.finish()
    }

    /// Takes what every card has, however it is spelled.
    fn card(&mut self, options: &mut Options, mac_key: &str, peer: Peer) -> Result<Nic, LocatorError> {
        if let Some(model) = options.take("model")? {
            if model == "help" || model == "?" {
                self.help = true;
            } else {
                check_model(&model).map_err(|()| options.bad_value("model", &model, &unknown_model_hint()))?;
            }
        }
        // Where the model's boot ROM is, and its place in the boot order: kernels are booted directly.
        options.take("romfile")?;
        options.take("bootindex")?;
        let mac = options.take_parsed::<MacAddr>(mac_key)?;
        if let Some(mac) = mac.filter(|mac| mac.is_multicast()) {
            return Err(options.bad_value(
                mac_key,
                &mac.to_string(),
                &"a card's own address cannot be a group address",
            ));
        }
        let slot = match options.take("addr")? {
            Some(text) => Some(
                parse_slot(&text)
                    .ok_or_else(|| options.bad_value("addr", &text, &"expected a PCI slot in hexadecimal, 1 to 1f"))?,
            ),
            None => None,
        };
        let mtu = options.take_parsed::<u16>("host_mtu")?;
        if let Some(mtu) = mtu.filter(|&mtu| mtu < 68) {
            return Err(options.bad_value(
                "host_mtu",
                &mtu.to_string(),
                &"an IPv4 link carries at least 68 bytes (RFC 791)",
            ));
        }
        Ok(Nic { name: options.take("name")?, mac, mtu, slot, peer })
    }

    pub(super) fn model_help(&self) -> Option<String> {
        self.help.then(|| format!("{}\n", unknown_model_hint()))
    }

    pub(super) fn plan(mut self) -> Result<NetworkPlan, UsageError> {
        if self.nics.is_empty() && self.netdevs.is_empty() && !self.no_default {
            let peer = if self.hub.is_empty() && self.hub_dumps.is_empty() {
                Peer::Own(Locator::from_qemu("user"))
            } else {
                Peer::Hub
            };
            self.nics.push(Nic { name: None, mac: None, mtu: None, slot: None, peer });
        }
        let mut warnings = self.unused_on_hub();
        let mut dumps = group_dumps(std::mem::take(&mut self.netdev_dumps), &self.netdevs)?;
        let mut plan = NetworkPlan::default();
        let direct = self.direct_hub();
        for (index, nic) in std::mem::take(&mut self.nics).into_iter().enumerate() {
            let mut nic_dumps = Vec::new();
            let attachment = match nic.peer {
                Peer::Own(locator) => Attachment::Backend(locator),
                Peer::Nothing => Attachment::Nothing,
                Peer::Hub => match direct.clone() {
                    Some(backend) => {
                        nic_dumps = std::mem::take(&mut self.hub_dumps);
                        backend.map_or(Attachment::Nothing, Attachment::Backend)
                    }
                    None => Attachment::Hub,
                },
                Peer::Netdev(id) => {
                    let locator = self.netdevs.remove(&id).ok_or_else(|| {
                        UsageError::Network(format!("netdev '{id}' does not exist, or another card has it already"))
                    })?;
                    nic_dumps = dumps.remove(&id).unwrap_or_default();
                    Attachment::Backend(locator)
                }
            };
            plan.nics.push(NicPlan {
                name: nic.name.unwrap_or_else(|| format!("net{index}")),
                mac: nic.mac.unwrap_or_else(|| default_mac(index)),
                mtu: nic.mtu,
                slot: nic.slot,
                attachment,
                dumps: nic_dumps,
            });
        }
        warnings.extend(self.netdevs.keys().map(|id| format!("netdev '{id}' has no card: no -device names it")));
        if direct.is_none() {
            plan.hub = self.hub;
            plan.hub_dumps = self.hub_dumps;
        }
        plan.warnings = warnings;
        Ok(plan)
    }

    /// If the hub has one card and at most one backend, that backend: no hub is needed then.
    fn direct_hub(&self) -> Option<Option<Locator>> {
        let cards = self.nics.iter().filter(|nic| matches!(nic.peer, Peer::Hub)).count();
        (cards == 1 && self.hub.len() <= 1).then(|| self.hub.first().cloned())
    }

    fn unused_on_hub(&self) -> Vec<String> {
        let cards = self.nics.iter().filter(|nic| matches!(nic.peer, Peer::Hub)).count();
        let mut warnings = Vec::new();
        if cards == 0 && !self.hub.is_empty() {
            warnings.push("the -net hub has no card: add -net nic".to_owned());
        }
        if cards == 1 && self.hub.is_empty() {
            warnings.push("the -net hub has no backend: add -net user".to_owned());
        }
        warnings
    }
}

fn group_dumps(
    dumps: Vec<(String, PcapConfig)>,
    netdevs: &BTreeMap<String, Locator>,
) -> Result<BTreeMap<String, Vec<PcapConfig>>, UsageError> {
    let mut groups: BTreeMap<String, Vec<PcapConfig>> = BTreeMap::new();
    for (netdev, dump) in dumps {
        if !netdevs.contains_key(&netdev) {
            return Err(UsageError::Network(format!("-object filter-dump: netdev '{netdev}' does not exist")));
        }
        groups.entry(netdev).or_default().push(dump);
    }
    Ok(groups)
}

fn default_mac(index: usize) -> MacAddr {
    let mut mac = FIRST_MAC;
    mac[5] = mac[5].wrapping_add(index as u8);
    MacAddr(mac)
}

fn parse_slot(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let digits = digits.strip_suffix(".0").unwrap_or(digits);
    u8::from_str_radix(digits, 16).ok().filter(|slot| (1..32).contains(slot))
}

fn dump(options: &mut Options, len_key: &str) -> Result<PcapConfig, LocatorError> {
    let file = options.take("file")?.unwrap_or_else(|| "vmm-net.pcap".to_owned());
    let snap_len = options.take_parsed::<u32>(len_key)?.unwrap_or(PcapConfig::DEFAULT_SNAP_LEN);
    if snap_len == 0 {
        return Err(options.bad_value(len_key, "0", &"a capture keeps at least 1 byte of each frame"));
    }
    Ok(PcapConfig { snap_len, ..PcapConfig::new(file) })
}

/// Checks a backend's options against its kind, so that a mistake is a usage error before anything is opened.
fn normalise(locator: Locator) -> Result<Locator, LocatorError> {
    plug::check(&locator)?;
    Ok(locator)
}

fn check_model(model: &str) -> Result<(), ()> {
    let known = MODELS.iter().any(|(name, aliases)| *name == model || aliases.contains(&model));
    if known { Ok(()) } else { Err(()) }
}

fn unknown_model(model: &str) -> String {
    format!("{model}: {}", unknown_model_hint())
}

fn unknown_model_hint() -> String {
    let names: Vec<_> = MODELS.iter().map(|(name, _)| *name).collect();
    format!("available network card models: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Invocation, parse};

    fn plan(line: &str) -> Result<NetworkPlan, String> {
        let words = ["-kernel", "k"].into_iter().chain(line.split_whitespace()).map(str::to_owned);
        match parse(words).map_err(|error| error.to_string())? {
            Invocation::Run(run) => Ok(run.network),
            Invocation::Print(text) => Err(text),
        }
    }

    fn backend(nic: &NicPlan) -> String {
        match &nic.attachment {
            Attachment::Backend(locator) => locator.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn no_option_at_all_is_one_card_on_user() {
        let plan = plan("").unwrap();
        assert_eq!(backend(&plan.nics[0]), "user://");
        assert_eq!(plan.nics[0].mac.to_string(), "52:54:00:12:34:56");
    }

    #[test]
    fn the_users_line_works_and_its_dump_sits_on_the_card() {
        let plan =
            plan("-net nic,model=virtio,macaddr=52:54:00:aa:bb:cc -net user,hostfwd=tcp::2222-:22 -net dump,file=/tmp/x,len=96")
                .unwrap();
        assert_eq!(plan.nics.len(), 1);
        assert_eq!(backend(&plan.nics[0]), "user://?hostfwd=tcp::2222-:22");
        assert_eq!(plan.nics[0].mac.to_string(), "52:54:00:aa:bb:cc");
        assert_eq!(plan.nics[0].dumps, [PcapConfig { snap_len: 96, ..PcapConfig::new("/tmp/x") }]);
        assert!(plan.hub.is_empty() && plan.hub_dumps.is_empty() && plan.warnings.is_empty());
    }

    #[test]
    fn two_cards_and_a_backend_share_a_hub() {
        let plan = plan("-net nic -net nic -net user -net dump").unwrap();
        assert!(plan.nics.iter().all(|nic| matches!(nic.attachment, Attachment::Hub)));
        assert_eq!(plan.hub.len(), 1);
        assert_eq!(plan.hub_dumps.len(), 1);
        assert_eq!(plan.nics[1].mac.to_string(), "52:54:00:12:34:57");
    }

    #[test]
    fn netdevs_and_devices_find_each_other() {
        let plan = plan(
            "-netdev user,id=a -netdev user,id=b,net=10.0.3.0/24 -device virtio-net-pci,netdev=b,addr=1f \
             -device virtio-net-pci,netdev=a,id=first -object filter-dump,id=f,netdev=a,file=y",
        )
        .unwrap();
        assert_eq!(backend(&plan.nics[0]), "user://?net=10.0.3.0/24");
        assert_eq!(plan.nics[0].slot, Some(31));
        assert_eq!(plan.nics[1].name, "first");
        assert_eq!(plan.nics[1].dumps.len(), 1);
    }

    #[test]
    fn none_means_none() {
        for line in ["-net none", "-nic none", "-nodefaults"] {
            assert!(plan(line).unwrap().nics.is_empty(), "{line}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("-net nic,modell=virtio", "-net nic: unknown option 'modell'"),
            ("-net nic,model=ne9", "-net nic: model=ne9: available network card models: virtio"),
            ("-netdev user", "-netdev user: id=NAME is needed"),
            ("-netdev user,id=a -netdev user,id=a", "-netdev: duplicate id 'a'"),
            ("-device virtio-net-pci,netdev=z", "netdev 'z' does not exist, or another card has it already"),
            (
                "-net nic,macaddr=1:2:3",
                "-net nic: macaddr=1:2:3: '1:2:3' is not a MAC address: six bytes in hexadecimal, as in 52:54:00:12:34:56",
            ),
            ("-net teleport", "-net unknown kind of link 'teleport'"),
        ] {
            assert_eq!(plan(line).unwrap_err(), expected, "{line}");
        }
    }

    #[test]
    fn what_nobody_uses_is_a_warning() {
        assert_eq!(
            plan("-netdev user,id=a -net none").unwrap().warnings,
            ["netdev 'a' has no card: no -device names it"]
        );
        assert_eq!(plan("-net nic").unwrap().warnings, ["the -net hub has no backend: add -net user"]);
    }

    #[test]
    fn models_are_listed_on_request() {
        assert!(plan("-net nic,model=help").unwrap_err().contains("virtio"));
    }
}
