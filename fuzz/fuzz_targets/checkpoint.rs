//! Files of a checkpoint: arbitrary bytes are refused or hold what is written alike again; of a sound file with any byte changed nothing is taken for sound but itself.
#![no_main]
use nystream_cluster::checkpoint::Frame;
use nystream_cluster::checkpoint::format::{Header, parse, write};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok((header, frames)) = parse(bytes) {
        assert_eq!(written(&header, &frames), bytes);
    }
    let [place, change, payload @ ..] = bytes else { return };
    let header = Header { job: [*place; 32], group: "pcg".into(), member: "state".into(), sequence: 3, frames: 2 };
    let (first, second) = payload.split_at(payload.len() / 2);
    let frames = [first, second].map(|bytes| Frame { key: bytes.len() as u64, bytes: bytes.to_vec() });
    let mut sound = written(&header, &frames);
    assert_eq!(parse(&sound).unwrap(), (header, frames.to_vec()));
    let place = *place as usize * sound.len() / 256;
    sound[place] ^= change;
    assert_eq!(parse(&sound).is_ok(), *change == 0);
    assert!(parse(&sound[..place]).is_err());
});

fn written(header: &Header, frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, header, &mut frames.iter().cloned()).unwrap();
    bytes
}
