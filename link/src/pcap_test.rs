//! What is written is read back by the pcap-file crate's reader.

use pcap_file::pcap::PcapReader;

use super::*;
use crate::soft::sample::{Sample, read};
use crate::{Fragment, FragmentMut, Null, pair};

/// A path that is gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("link-{name}-{}.pcap", std::process::id())))
    }

    fn records(&self) -> (PcapHeader, Vec<RawPcapPacket<'static>>) {
        let mut reader = PcapReader::new(File::open(&self.0).unwrap()).unwrap();
        let mut records = Vec::new();
        while let Some(record) = reader.next_raw_packet() {
            records.push(record.unwrap().into_owned());
        }
        (reader.header(), records)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn send(link: &mut impl Link, header: VnetHeader, bytes: &[u8]) {
    let mut batch = TxBatch::new();
    let (front, back) = bytes.split_at(bytes.len() / 2);
    batch.push(header, [Fragment::new(front), Fragment::new(back)]);
    assert_eq!(link.send(&batch).unwrap(), 1);
}

#[test]
fn both_directions_are_recorded_as_soon_as_they_cross() {
    let scratch = Scratch::new("directions");
    let (near, mut far) = pair("test").unwrap();
    let mut link = Pcap::create(near, &PcapConfig::new(&scratch.0)).unwrap();
    let (out, back) = (Sample::tcp4(100, 1000).frame().1, Sample::tcp4(200, 1000).frame().1);
    let before = since_epoch();
    send(&mut link, VnetHeader::WHOLE, &out);
    send(&mut far, VnetHeader::WHOLE, &back);
    let mut buffer = [0; 2000];
    let mut batch = RxBatch::new();
    batch.push([FragmentMut::new(&mut buffer)]);
    assert_eq!(link.receive(&mut batch).unwrap(), 1);
    // The link is still open: nothing waits for its end.
    let (header, records) = scratch.records();
    assert_eq!(header.datalink, DataLink::ETHERNET);
    assert_eq!(header.snaplen, 65536);
    assert_eq!(header.ts_resolution, TsResolution::MicroSecond);
    let bytes: Vec<_> = records.iter().map(|record| record.data.as_ref()).collect();
    assert_eq!(bytes, [out.as_slice(), &back]);
    for record in &records {
        let time = Duration::new(u64::from(record.ts_sec), record.ts_frac * 1000);
        assert!(time + Duration::from_millis(1) > before && time <= since_epoch());
    }
}

#[test]
fn frames_are_cut_at_the_snap_length_and_keep_their_length() {
    let scratch = Scratch::new("snap");
    let config = PcapConfig { snap_len: 60, resolution: Resolution::Nano, ..PcapConfig::new(&scratch.0) };
    let mut link = Pcap::create(Null::default(), &config).unwrap();
    let (header, bytes) = Sample::tcp4(9000, 1000).frame();
    send(&mut link, header, &bytes);
    send(&mut link, VnetHeader::WHOLE, &bytes[..60]);
    let (header, records) = scratch.records();
    assert_eq!((header.snaplen, header.ts_resolution), (60, TsResolution::NanoSecond));
    assert_eq!(records.iter().map(|r| (r.incl_len, r.orig_len)).collect::<Vec<_>>(), [(60, 9054), (60, 60)]);
    assert!(records.iter().all(|record| *record.data == bytes[..60]));
}

#[test]
fn partial_checksums_are_right_in_the_capture_and_partial_on_the_link() {
    let scratch = Scratch::new("checksum");
    let (near, mut far) = pair("test").unwrap();
    far.accept(Offloads::ALL).unwrap();
    let mut link = Pcap::create(near, &PcapConfig::new(&scratch.0)).unwrap();
    let samples = [Sample::tcp4(100, 1000), Sample { udp: true, v6: true, ..Sample::tcp4(9000, 1000) }];
    for sample in &samples {
        let (header, bytes) = sample.frame();
        send(&mut link, header, &bytes);
        let mut buffer = vec![0; 20_000];
        let mut batch = RxBatch::new();
        batch.push([FragmentMut::new(&mut buffer)]);
        assert_eq!(far.receive(&mut batch).unwrap(), 1);
        assert_eq!(batch.frames().next(), Some((header, bytes.len())));
        assert_eq!(buffer[..bytes.len()], bytes);
    }
    let payloads: Vec<_> = scratch.records().1.iter().map(|record| read(&record.data).payload).collect();
    assert_eq!(payloads, samples.map(|sample| sample.payload));
}

#[test]
fn a_full_disk_ends_the_capture_and_not_the_traffic() {
    let mut link = Pcap::create(Null::default(), &PcapConfig::new("/dev/null")).unwrap();
    if let Some(capture) = &mut link.capture {
        capture.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    }
    send(&mut link, VnetHeader::WHOLE, &[1; 60]);
    assert!(link.capture.is_none());
    send(&mut link, VnetHeader::WHOLE, &[1; 60]);
    assert_eq!(link.counters().tx_frames, 2);
}

#[test]
fn a_record_that_was_written_in_part_is_cut_off() {
    let scratch = Scratch::new("part");
    let mut link = Pcap::create(Null::default(), &PcapConfig::new(&scratch.0)).unwrap();
    send(&mut link, VnetHeader::WHOLE, &[1; 60]);
    if let Some(capture) = &mut link.capture {
        // As a disk does that fills up within a record.
        let mut file = OpenOptions::new().append(true).open(&scratch.0).unwrap();
        file.write_all(&[7; 10]).unwrap();
        capture.cut_off();
    }
    assert_eq!(scratch.records().1.len(), 1);
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let error = Pcap::create(Null::default(), &PcapConfig::new("/nowhere/x.pcap")).map(drop).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/x.pcap: No such file"), "{error}");
    let config = PcapConfig { snap_len: 0, ..PcapConfig::new("/nowhere/x.pcap") };
    assert!(matches!(Pcap::create(Null::default(), &config), Err(PcapError::SnapLen(_))));
}
