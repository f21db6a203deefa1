//! Who was refused while a join waited, for the message at its end.
//!
//! A refused connection never ends a join, since anybody can make one; where the join does end for want of a process, it was perhaps that process that was refused, with another secret. It has not said who it is, so
//! it is known by its host alone. Bounded: the last [`KEPT`] addresses that were refused, each with its last reason, or that it holds another secret, and the number of its tries.

use crate::handshake::OTHER_SECRET;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Addresses that are kept.
const KEPT: usize = 64;

struct Stranger {
    from: IpAddr,
    tries: u64,
    reason: String,
}

/// The addresses that were refused, the last one at the end.
#[derive(Default)]
pub(crate) struct Strangers(VecDeque<Stranger>);

impl Strangers {
    /// A connection from there was refused.
    pub(crate) fn refused(&mut self, from: IpAddr, reason: String) {
        let from = from.to_canonical();
        let known = self.0.iter().position(|stranger| stranger.from == from).and_then(|at| self.0.remove(at));
        let tries = known.as_ref().map_or(0, |known| known.tries) + 1;
        // That it speaks the protocol, with another secret, says more than that it was cut off another time.
        let reason = known.map(|known| known.reason).filter(|reason| reason == OTHER_SECRET).unwrap_or(reason);
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Stranger { from, tries, reason });
    }

    /// What there is to say where a process whose host has the addresses of `hosts`, which are asked for only then, did not come: that somebody from there was refused, or else who was refused last.
    pub(crate) fn about(&self, hosts: impl FnOnce() -> Vec<IpAddr>) -> Option<String> {
        let last = self.0.back()?;
        let hosts: Vec<IpAddr> = hosts().iter().map(IpAddr::to_canonical).collect();
        let known = self.0.iter().rev().find(|stranger| hosts.contains(&stranger.from));
        let whose = if known.is_some() { "its host" } else { "another host" };
        let Stranger { from, tries, reason } = known.unwrap_or(last);
        let times = if *tries == 1 { "once".to_owned() } else { format!("{tries} times") };
        Some(format!("a connection from {whose} ({from}) was refused, {times}: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_the_missing_process_goes_first_and_a_flood_is_bounded() {
        let ip = |last: usize| IpAddr::from([10, 0, (last >> 8) as u8, last as u8]);
        let mut all = Strangers::default();
        assert_eq!(all.about(Vec::new), None);
        all.refused(ip(1), "noise".into());
        for _ in 0..3 {
            all.refused(ip(2), "another secret".into());
        }
        all.refused(ip(3), "a scan".into());
        let about = |all: &Strangers, host| all.about(|| vec![ip(host)]).unwrap();
        assert_eq!(about(&all, 2), "a connection from its host (10.0.0.2) was refused, 3 times: another secret");
        assert_eq!(about(&all, 9), "a connection from another host (10.0.0.3) was refused, once: a scan");
        // As a listener for both families sees it.
        let IpAddr::V4(four) = ip(2) else { panic!() };
        all.refused(IpAddr::V6(four.to_ipv6_mapped()), OTHER_SECRET.into());
        assert!(about(&all, 2).contains("4 times"));
        all.refused(ip(2), "it closed the connection".into());
        assert!(about(&all, 2).ends_with(&format!("5 times: {OTHER_SECRET}")));
        for last in 0..1000 {
            all.refused(ip(256 + last), "a flood".into());
        }
        assert_eq!(all.0.len(), KEPT);
        assert!(
            about(&all, 2).contains("from another host (10.0.4.231) was refused, once: a flood"),
            "{}",
            about(&all, 2)
        );
    }
}
