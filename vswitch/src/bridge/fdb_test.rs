use super::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const ANY: u32 = u32::MAX;

fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

fn key(address: MacAddr) -> Key {
    Key::new(VlanId::UNTAGGED, address.into())
}

fn numbered(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 1, a, b, c, d])
}

#[test]
fn a_key_holds_its_vlan_and_its_address() {
    for (vlan, address) in [(0, A), (4094, MacAddr([0xfe; 6])), (1, MacAddr([0; 6]))] {
        let vlan = VlanId::new(vlan).unwrap();
        let key = Key::new(vlan, address.into());
        assert_eq!((key.vlan(), key.address()), (vlan, address));
    }
}

#[test]
fn a_station_is_found_where_it_was_last_heard() {
    let mut fdb = Fdb::new(0);
    assert_eq!(fdb.lookup(key(A), 0), None);
    assert_eq!(fdb.learn(key(A), port(1), ANY, 0), Learned::New);
    assert_eq!(fdb.learn(key(A), port(1), ANY, 0), Learned::Known);
    assert_eq!(fdb.learn(key(A), port(2), ANY, 0), Learned::Moved(port(1)));
    assert_eq!(fdb.lookup(key(A), 0), Some(port(2)));
    assert_eq!((fdb.stations_on(port(1)), fdb.stations_on(port(2))), (0, 1));
}

#[test]
fn an_address_in_two_vlans_is_two_stations() {
    let mut fdb = Fdb::new(0);
    let other = Key::new(VlanId::new(7).unwrap(), A.into());
    fdb.learn(key(A), port(1), ANY, 0);
    fdb.learn(other, port(2), ANY, 0);
    assert_eq!((fdb.lookup(key(A), 0), fdb.lookup(other, 0)), (Some(port(1)), Some(port(2))));
    fdb.forget_port_vlan(port(2), VlanId::UNTAGGED);
    assert_eq!(fdb.lookup(other, 0), Some(port(2)));
    fdb.forget_port_vlan(port(2), VlanId::new(7).unwrap());
    assert_eq!((fdb.lookup(other, 0), fdb.len()), (None, 1));
}

#[test]
fn a_silent_station_is_forgotten_and_a_heard_one_is_not() {
    let mut fdb = Fdb::new(0);
    fdb.learn(key(A), port(1), ANY, 0);
    fdb.learn(key(A), port(1), ANY, 200_000);
    assert_eq!(fdb.lookup(key(A), 499_999), Some(port(1)));
    assert_eq!(fdb.lookup(key(A), 500_000), None);
    assert_eq!(fdb.stations(500_000).count(), 0);
    assert_eq!(fdb.learn(key(A), port(2), ANY, 500_000), Learned::New);
}

#[test]
fn a_vlan_may_age_at_its_own_pace() {
    let mut fdb = Fdb::new(0);
    let vlan = VlanId::new(4094).unwrap();
    fdb.set_vlan_ageing(vlan, Some(Duration::from_secs(1)));
    fdb.learn(key(A), port(1), ANY, 0);
    fdb.learn(Key::new(vlan, A.into()), port(1), ANY, 0);
    assert_eq!((fdb.lookup(key(A), 1000), fdb.lookup(Key::new(vlan, A.into()), 1000)), (Some(port(1)), None));
    fdb.set_vlan_ageing(vlan, None);
    assert_eq!(fdb.vlan_ageing(vlan), None);
    assert_eq!(fdb.lookup(Key::new(vlan, A.into()), 1000), Some(port(1)));
}

#[test]
fn a_station_is_held_where_it_was_just_heard() {
    let mut fdb = Fdb::new(0);
    fdb.set_hold(Duration::from_secs(3));
    fdb.learn(key(A), port(1), ANY, 0);
    fdb.learn(key(A), port(1), ANY, 1000);
    assert_eq!(fdb.learn(key(A), port(2), ANY, 3999), Learned::Held(port(1)));
    assert_eq!(fdb.learn(key(A), port(2), ANY, 4000), Learned::Moved(port(1)));
}

#[test]
fn a_static_entry_neither_moves_nor_ages_and_goes_with_its_port() {
    let mut fdb = Fdb::new(0);
    fdb.learn(key(A), port(2), ANY, 0);
    fdb.set_static(VlanId::UNTAGGED, A, port(1));
    assert_eq!(fdb.learn(key(A), port(2), ANY, 0), Learned::Fixed(port(1)));
    assert_eq!(fdb.learn(key(A), port(1), ANY, 5), Learned::Known);
    fdb.forget_port(port(1));
    fdb.forget_all();
    assert_eq!(fdb.lookup(key(A), u64::MAX - 1), Some(port(1)));
    let found = fdb.find(VlanId::UNTAGGED, A, 9).unwrap();
    assert_eq!((found.port, found.age), (port(1), None));
    assert_eq!((fdb.stations_on(port(1)), fdb.stations_on(port(2))), (0, 0));
    fdb.remove_port(port(1));
    assert!(fdb.is_empty());
}

#[test]
fn a_full_table_refuses_until_something_expires() {
    let mut fdb = Fdb::new(0);
    fdb.set_capacity(2);
    fdb.learn(key(A), port(1), ANY, 0);
    fdb.learn(key(B), port(1), ANY, 100_000);
    assert_eq!(fdb.deadline(), None);
    assert_eq!(fdb.learn(key(C), port(2), ANY, 101_000), Learned::TableFull);
    assert_eq!((fdb.refused(), fdb.deadline()), (1, Some(300_000)));
    fdb.expire(299_999);
    assert_eq!(fdb.len(), 2);
    fdb.expire(300_000);
    assert_eq!((fdb.len(), fdb.deadline()), (1, None));
    assert_eq!(fdb.learn(key(C), port(2), ANY, 300_000), Learned::New);
}

#[test]
fn sweeps_keep_their_distance_however_many_ask() {
    let mut fdb = Fdb::new(0);
    fdb.set_capacity(100);
    let mut sweeps = 0;
    for tick in 0..1_200_000 {
        fdb.learn(key(numbered(tick as u32)), port(1), ANY, tick);
        if fdb.deadline().is_some_and(|due| due <= tick) {
            fdb.expire(tick);
            sweeps += 1;
        }
    }
    assert!((3..=4 * 64).contains(&sweeps), "{sweeps}");
}

#[test]
fn a_port_brings_in_as_many_stations_as_it_may() {
    let mut fdb = Fdb::new(0);
    assert_eq!(fdb.learn(key(A), port(1), 1, 0), Learned::New);
    assert_eq!(fdb.learn(key(B), port(1), 1, 0), Learned::PortFull);
    assert_eq!(fdb.learn(key(A), port(1), 1, 0), Learned::Known);
    fdb.learn(key(C), port(2), ANY, 0);
    assert_eq!(fdb.learn(key(C), port(1), 1, 0), Learned::PortFull);
    assert_eq!(fdb.deadline(), Some(300_000));
    fdb.learn(key(C), port(2), ANY, 100_000);
    fdb.expire(300_000);
    assert_eq!((fdb.stations_on(port(1)), fdb.stations_on(port(2))), (0, 1));
    assert_eq!(fdb.learn(key(B), port(1), 1, 300_000), Learned::New);
}

#[test]
fn judging_says_what_learning_does() {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut fdb = Fdb::new(0);
    fdb.set_capacity(30);
    fdb.set_ageing(Duration::from_millis(200));
    fdb.set_hold(Duration::from_millis(5));
    fdb.set_static(VlanId::UNTAGGED, numbered(0), port(1));
    for tick in 0..20_000 {
        let source = key(numbered(random(50) as u32));
        let (port, limit) = (port(1 + random(5) as u32), 3 + random(9) as u32);
        let judged = fdb.judge(source, port, limit, tick);
        assert_eq!(fdb.learn(source, port, limit, tick), judged);
        fdb.expire(tick);
    }
    let mut counts = [0; 6];
    fdb.stations.values().filter(|entry| !entry.is_static()).for_each(|entry| counts[entry.port.index()] += 1);
    assert_eq!((fdb.counts.as_slice(), fdb.statics), (&counts[..fdb.counts.len()], 1));
}
