//! Network namespaces joined by veth pairs to a bridge, for as long as a [`Nets`] lives.
//!
//! The bridge has a namespace of its own: nothing of it is in the network of the machine, and all of it goes with its namespaces. Names hold the process id of the test.

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Namespaces `0..hosts`, each with one address in one network.
pub struct Nets {
    name: String,
    hosts: usize,
}

fn run(program: &str, line: &str) -> Result<Output, String> {
    let output = Command::new(program).args(line.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{program} cannot be started: {e}"))?;
    match output.status.success() {
        true => Ok(output),
        false => Err(format!("{program} {line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn ip(line: &str) -> Result<Output, String> {
    run("ip", line)
}

impl Nets {
    /// Makes them.
    ///
    /// # Errors
    /// Why this machine or this user cannot.
    pub fn new(hosts: usize) -> Result<Self, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // From here on what was made goes when it is dropped.
        let nets = Nets { name, hosts };
        let hub = nets.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add br0 type bridge"))?;
        ip(&format!("-n {hub} link set br0 up"))?;
        for host in 0..hosts {
            let name = nets.namespace(host);
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {hub} link add port{host} type veth peer name eth0 netns {name}"))?;
            ip(&format!("-n {hub} link set port{host} master br0"))?;
            ip(&format!("-n {hub} link set port{host} up"))?;
            ip(&format!("-n {name} addr add {}/24 dev eth0", nets.address(host)))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        Ok(nets)
    }

    fn hub(&self) -> String {
        format!("nystream{}hub", self.name)
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: usize) -> String {
        format!("nystream{}h{host}", self.name)
    }

    /// Its address.
    pub fn address(&self, host: usize) -> String {
        format!("10.213.47.{}", host + 1)
    }

    /// Takes the link of a host down: what it sends and what is sent to it is lost, and neither end is told.
    pub fn cut(&self, host: usize) {
        ip(&format!("-n {} link set port{host} down", self.hub())).unwrap();
    }

    /// Delays what every host sends, and loses some of it.
    ///
    /// # Errors
    /// A kernel without netem.
    pub fn disturb(&self, how: &str) -> Result<(), String> {
        (0..self.hosts).try_for_each(|host| {
            run("tc", &format!("-n {} qdisc add dev eth0 root netem {how}", self.namespace(host))).map(drop)
        })
    }
}

impl Drop for Nets {
    fn drop(&mut self) {
        for name in (0..self.hosts).map(|host| self.namespace(host)).chain([self.hub()]) {
            // It may not have been made.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}
