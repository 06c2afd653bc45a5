//! Front ports, and the protocols and keys of listeners.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// A port number, which APIs have as an `i32`; `None`: it is not from 1 to 65535.
#[must_use]
pub fn port_number(number: i32) -> Option<NonZeroU16> {
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl Transport {
    /// Its name in names of objects and ports, which are in lower case: `tcp`.
    #[must_use]
    pub fn lower_case(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl FromStr for Transport {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_one_of([Self::Tcp, Self::Udp], text, "a transport (TCP or UDP)")
    }
}

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub enum Protocol {
    /// TCP only
    Tcp,
    /// UDP only
    Udp,
    /// Both, on one port number
    TcpUdp,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::TcpUdp];

    /// Whether listeners of these two protocols on one number exclude each other.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.transports().iter().any(|transport| other.transports().contains(transport))
    }

    /// Its transports.
    #[must_use]
    pub fn transports(self) -> &'static [Transport] {
        match self {
            Self::Tcp => &[Transport::Tcp],
            Self::Udp => &[Transport::Udp],
            Self::TcpUdp => &[Transport::Tcp, Transport::Udp],
        }
    }
}

impl FromStr for Protocol {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_one_of(Self::ALL, text, "a protocol (TCP, UDP or TCP_UDP)")
    }
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::TcpUdp => "TCP_UDP",
        })
    }
}

/// A port number of one transport: `22/TCP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct FrontPort {
    /// 1 to 65535
    pub port: NonZeroU16,
    /// TCP or UDP
    pub transport: Transport,
}

impl fmt::Display for FrontPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.transport)
    }
}

impl FromStr for FrontPort {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (port, transport) = parse_port(text, "a front port such as 22/TCP")?;
        Ok(Self { port, transport })
    }
}

/// The key of a listener of a load balancer: `20417/TCP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct ListenerKey {
    /// The front port, 1 to 65535
    pub port: NonZeroU16,
    /// Its protocol
    pub protocol: Protocol,
}

impl ListenerKey {
    /// The front ports of this listener: two for `TCP_UDP`.
    pub fn front_ports(self) -> impl Iterator<Item = FrontPort> {
        self.protocol.transports().iter().map(move |&transport| FrontPort { port: self.port, transport })
    }

    /// The keys of all possible listeners of this number.
    #[must_use]
    pub fn of_number(port: NonZeroU16) -> [Self; 3] {
        Protocol::ALL.map(|protocol| Self { port, protocol })
    }

    /// Whether this listener has this front port.
    #[must_use]
    pub fn has(self, port: FrontPort) -> bool {
        self.port == port.port && self.protocol.transports().contains(&port.transport)
    }

    /// Whether the two have a front port in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.port == other.port && self.protocol.overlaps(other.protocol)
    }
}

impl From<FrontPort> for ListenerKey {
    fn from(FrontPort { port, transport }: FrontPort) -> Self {
        Self { port, protocol: transport.into() }
    }
}

impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl FromStr for ListenerKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (port, protocol) = parse_port(text, "a listener such as 20417/TCP")?;
        Ok(Self { port, protocol })
    }
}

/// A text that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseError {
    text: String,
    expected: &'static str,
}

/// The value whose `Display` is this text.
fn parse_one_of<T: fmt::Display>(
    all: impl IntoIterator<Item = T>,
    text: &str,
    expected: &'static str,
) -> Result<T, ParseError> {
    let found = all.into_iter().find(|one| one.to_string() == text);
    found.ok_or_else(|| ParseError { text: text.to_owned(), expected })
}

/// Parses a number, a slash and the text after it.
fn parse_port<T: FromStr>(text: &str, expected: &'static str) -> Result<(NonZeroU16, T), ParseError> {
    let parse = || {
        let (port, rest) = text.split_once('/')?;
        Some((port.parse().ok()?, rest.parse().ok()?))
    };
    parse().ok_or_else(|| ParseError { text: text.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_none_is_named_in_the_error() {
        for text in ["", "TCP", "0/TCP", "65536/TCP", "22/tcp", "22/TCP_UDP", "22/TCP/"] {
            let error = text.parse::<FrontPort>().expect_err(text).to_string();
            assert_eq!(error, format!("{text:?} is not a front port such as 22/TCP"));
        }
    }
}
