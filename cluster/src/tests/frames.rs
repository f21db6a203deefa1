//! Frames: they come back from whatever pieces they arrive in, and nothing else opens.

use super::ends;
use crate::frames::{Kind, Opener, PAYLOAD, Transport};
use proptest::prelude::*;
use std::io::{self, ErrorKind, Read};

const BOTH: [Transport; 2] = [Transport::Noise, Transport::Plain];
const KINDS: [Kind; 3] = [Kind::Data, Kind::Heartbeat, Kind::Farewell];

/// Gives its bytes in pieces of these lengths, over and over, with a read that finds nothing between any two.
struct Pieces<'a> {
    bytes: &'a [u8],
    lengths: &'a [usize],
    turn: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(2) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = self.lengths[self.turn / 2 % self.lengths.len()].min(buffer.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(length);
        buffer[..length].copy_from_slice(now);
        self.bytes = later;
        Ok(length)
    }
}

/// All frames until the end of the stream or the first error other than a read that found nothing.
fn all(opener: &mut Opener, reader: &mut impl Read) -> (Vec<(Kind, Vec<u8>)>, Option<ErrorKind>) {
    let mut frames = Vec::new();
    loop {
        match opener.next(reader) {
            Ok(Some(kind)) => frames.push((kind, opener.payload().to_vec())),
            Ok(None) => return (frames, None),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return (frames, Some(error.kind())),
        }
    }
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + length) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_come_back_from_any_pieces(
        frames in prop::collection::vec((0..3usize, prop_oneof![0..40usize, 0..=PAYLOAD]), 0..8),
        lengths in prop::collection::vec(prop_oneof![1..5usize, 1..200_000usize], 1..5),
    ) {
        for transport in BOTH {
            let [(mut sealer, _), (_, mut opener)] = ends(transport);
            let mut bytes = Vec::new();
            let sent: Vec<_> = frames.iter().map(|(kind, length)| (KINDS[*kind], payload(*length))).collect();
            for (kind, payload) in &sent {
                sealer.seal(*kind, payload, &mut bytes).unwrap();
            }
            // Reads of single bytes are for short streams.
            let least = 1 + bytes.len() / 5000;
            let lengths: Vec<usize> = lengths.iter().map(|length| (*length).max(least)).collect();
            let (received, error) = all(&mut opener, &mut Pieces { bytes: &bytes, lengths: &lengths, turn: 0 });
            prop_assert_eq!(error, None);
            prop_assert_eq!(&received, &sent);
            prop_assert_eq!(opener.arrived, bytes.len() as u64);
        }
    }

    /// A byte changed, or the end cut off: frames before it open, none from there on does.
    #[test]
    fn damage_ends_the_stream(
        lengths in prop::collection::vec(0..300usize, 1..6), at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        for transport in BOTH {
            let [(mut sealer, _), _] = ends(transport);
            let mut bytes = Vec::new();
            let mut starts = Vec::new();
            for length in &lengths {
                starts.push(bytes.len());
                sealer.seal(Kind::Data, &payload(*length), &mut bytes).unwrap();
            }
            let at = at.index(bytes.len());
            let whole = starts.iter().filter(|start| **start <= at).count() - 1;
            let [(mut again, _), (_, mut opener)] = ends(transport);
            let mut damaged = Vec::new();
            lengths.iter().for_each(|length| again.seal(Kind::Data, &payload(*length), &mut damaged).unwrap());
            let mut cut = damaged.clone();
            damaged[at] ^= flip;
            let (received, error) = all(&mut opener, &mut &damaged[..]);
            prop_assert!(matches!(error, Some(ErrorKind::InvalidData | ErrorKind::UnexpectedEof)));
            prop_assert_eq!(received.len(), whole);
            let [(mut again, _), (_, mut opener)] = ends(transport);
            cut.clear();
            lengths.iter().for_each(|length| again.seal(Kind::Data, &payload(*length), &mut cut).unwrap());
            cut.truncate(at);
            let (received, error) = all(&mut opener, &mut &cut[..]);
            prop_assert_eq!(received.len(), whole);
            prop_assert_eq!(error.is_some(), !starts.contains(&at));
        }
    }

    #[test]
    fn random_bytes_open_nothing(bytes in prop::collection::vec(any::<u8>(), 1..2000)) {
        for transport in BOTH {
            let [_, (_, mut opener)] = ends(transport);
            let (received, error) = all(&mut opener, &mut &bytes[..]);
            prop_assert!(received.is_empty() && error.is_some());
        }
    }
}

/// Frames repeated, left out, swapped, or sent back to their sender.
#[test]
fn each_frame_opens_once_in_its_place_and_direction() {
    for transport in BOTH {
        for order in [&[0usize, 0][..], &[1], &[1, 0], &[0, 2]] {
            let [(mut sealer, _), (_, mut opener)] = ends(transport);
            let frames: Vec<Vec<u8>> = (0..3)
                .map(|i| {
                    let mut bytes = Vec::new();
                    sealer.seal(Kind::Data, &payload(10 + i), &mut bytes).unwrap();
                    bytes
                })
                .collect();
            let bytes: Vec<u8> = order.iter().flat_map(|i| frames[*i].clone()).collect();
            let (received, error) = all(&mut opener, &mut &bytes[..]);
            assert_eq!(error, Some(ErrorKind::InvalidData), "{transport} {order:?}");
            assert_eq!(received.len(), order.iter().enumerate().take_while(|(i, frame)| i == *frame).count());
        }
        let [(mut sealer, mut opener), _] = ends(transport);
        let mut bytes = Vec::new();
        sealer.seal(Kind::Data, b"mirror", &mut bytes).unwrap();
        assert_eq!(all(&mut opener, &mut &bytes[..]).1, Some(ErrorKind::InvalidData), "{transport}");
    }
}

#[test]
fn payloads_are_hidden_by_noise_only_and_bounded() {
    for transport in BOTH {
        let [(mut sealer, _), _] = ends(transport);
        let mut bytes = Vec::new();
        sealer.seal(Kind::Data, b"the coefficients", &mut bytes).unwrap();
        let shown = bytes.windows(16).any(|window| window == b"the coefficients");
        assert_eq!(shown, transport == Transport::Plain);
        assert!(sealer.seal(Kind::Data, &payload(PAYLOAD + 1), &mut bytes).is_err());
        bytes.clear();
        sealer.seal(Kind::Data, &payload(PAYLOAD), &mut bytes).unwrap();
        assert_eq!(bytes.len(), 2 + u16::MAX as usize);
    }
}
