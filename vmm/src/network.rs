//! From a network plan to cards on the bus: opens the backends, wraps the captures around them, builds the hub.
//!
//! Opening comes first and is where things fail (a port in use, no right to a TAP); attaching only needs room on the bus.
//! Neighbours: `cli` makes the plan, `nic` are the cards, `plug` opens the links.

use link::{Link, Null, Pcap, PcapConfig};
use plug::{Hub, OpenError};
use vm_memory::GuestMemoryMmap;

use crate::cli::{Attachment, NetworkPlan, NicPlan};
use crate::nic::{self, NicConfig, NicHandle, VirtioNet};
use crate::pci;

/// A backend that cannot be opened, or a card that cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backend of a card.
    #[error("nic {name}: {source}")]
    Backend {
        /// The card's name.
        name: String,
        /// Why.
        source: Box<OpenError>,
    },
    /// A backend on the hub, or the hub itself.
    #[error("hub: {0}")]
    Hub(#[source] Box<OpenError>),
    /// A capture.
    #[error(transparent)]
    Dump(#[from] link::PcapError),
    /// The card.
    #[error(transparent)]
    Nic(#[from] nic::Error),
}

/// The cards' links, open, and the hub between them.
pub struct Network {
    nics: Vec<(NicConfig, Box<dyn Link>)>,
    hub: Option<Hub>,
}

/// The cards on the bus, with their threads. Dropping it, or [`Cards::stop`], ends these and closes the links.
pub struct Cards {
    nics: Vec<NicHandle>,
    hub: Option<Hub>,
}

impl Network {
    /// Opens everything in the plan.
    ///
    /// # Errors
    /// The first backend or capture that cannot be opened; what was opened before is closed again.
    pub fn open(plan: NetworkPlan) -> Result<Self, Error> {
        let mut nics = Vec::new();
        let mut hub_ports: Vec<Box<dyn Link>> = Vec::new();
        for nic in plan.nics {
            let link = match &nic.attachment {
                Attachment::Nothing => Box::<Null>::default(),
                Attachment::Backend(locator) => plug::open(locator)
                    .map_err(|source| Error::Backend { name: nic.name.clone(), source: Box::new(source) })?,
                Attachment::Hub => {
                    let (card_end, hub_end) = plug::cable(&nic.name).map_err(hub_error)?;
                    hub_ports.push(hub_end);
                    card_end
                }
            };
            let link = with_dumps(link, &nic.dumps)?;
            nics.push((card(nic), link));
        }
        for locator in &plan.hub {
            hub_ports.push(plug::open(locator).map_err(hub_error)?);
        }
        // A capture of the hub is one more port of it, which hears everything.
        for dump in &plan.hub_dumps {
            hub_ports.push(with_dumps(Box::<Null>::default(), std::slice::from_ref(dump))?);
        }
        let hub = if hub_ports.is_empty() { None } else { Some(Hub::start(hub_ports).map_err(hub_error)?) };
        Ok(Self { nics, hub })
    }

    /// Puts the cards on the bus, in order.
    ///
    /// # Errors
    /// The bus has no room, or the host is out of threads or descriptors.
    pub fn attach(self, root: &pci::Root, memory: &GuestMemoryMmap) -> Result<Cards, Error> {
        let mut nics = Vec::with_capacity(self.nics.len());
        for (config, link) in self.nics {
            nics.push(VirtioNet::attach(root, memory.clone(), config, link)?);
        }
        Ok(Cards { nics, hub: self.hub })
    }
}

impl Cards {
    /// Ends the cards' threads and closes their links: captures are complete when this returns.
    pub fn stop(self) {
        for nic in self.nics {
            nic.stop();
        }
        drop(self.hub);
    }
}

fn hub_error(source: OpenError) -> Error {
    Error::Hub(Box::new(source))
}

fn card(nic: NicPlan) -> NicConfig {
    NicConfig { name: nic.name, mac: nic.mac, mtu: nic.mtu, slot: nic.slot }
}

fn with_dumps(mut link: Box<dyn Link>, dumps: &[PcapConfig]) -> Result<Box<dyn Link>, Error> {
    for dump in dumps {
        link = Box::new(Pcap::create(link, dump)?);
    }
    Ok(link)
}
