//! The PROXY protocol, versions 1 and 2: a load balancer says whose connection it passes on
//! (haproxy.org, proxy-protocol.txt).
//!
//! Only the addresses are used. A header is bounded in size, read to its last byte and not further, and must be
//! well-formed: what is not ends the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First byte of a version 1 header, and of no TLS record.
const V1_FIRST: u8 = b'P';
/// First byte of a version 2 header, and of no TLS record.
const V2_FIRST: u8 = b'\r';
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD: usize = 16;
/// Longest version 1 line, `\r\n` included (section 2.1).
const V1_LONGEST: usize = 107;
/// Longest version 2 header that is read, with what follows the addresses (TLVs), which is not looked at.
pub(crate) const LONGEST: usize = V2_HEAD + 2_048;

/// Whom a proxy passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxied {
    /// The client that connected to the proxy.
    Client(SocketAddr),
    /// The proxy itself, as for its health checks (`LOCAL`), or a client that it cannot name (`UNKNOWN`):
    /// the address of the connection counts.
    Itself,
}

/// What is known from the bytes so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// At least so many bytes are still to come; reading these cannot go past the header.
    More(usize),
    /// The header was these bytes, exactly.
    Whole(Proxied),
}

/// Why something is no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadProxyHeader {
    /// Neither version.
    #[error("the proxy sent neither a PROXY header nor TLS")]
    Unknown,
    /// A version 1 line that does not follow the rules.
    #[error("the PROXY header (version 1) is malformed")]
    Line,
    /// A version, command, family or length of version 2 that does not exist.
    #[error("the PROXY header (version 2) is malformed")]
    Binary,
    /// More than is read.
    #[error("the PROXY header is longer than {LONGEST} bytes")]
    TooLong,
    /// Bytes after it: never the fault of a peer.
    #[error("bytes after the PROXY header were taken for a part of it")]
    Trailing,
}

/// Whether a connection that begins with `first` begins with a PROXY header.
#[must_use]
pub(crate) fn begins(first: u8) -> bool {
    first == V1_FIRST || first == V2_FIRST
}

/// Judges the first bytes of a connection; asked again with more bytes until the header is whole.
///
/// # Errors
/// [`BadProxyHeader`].
pub fn parse(bytes: &[u8]) -> Result<Parsed, BadProxyHeader> {
    match bytes.first() {
        None => Ok(Parsed::More(1)),
        Some(&V1_FIRST) => line(bytes),
        Some(&V2_FIRST) => binary(bytes),
        Some(_) => Err(BadProxyHeader::Unknown),
    }
}

fn line(bytes: &[u8]) -> Result<Parsed, BadProxyHeader> {
    let known = bytes.len().min(V1_START.len());
    if bytes.get(..known) != V1_START.get(..known) {
        return Err(BadProxyHeader::Line);
    }
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() >= V1_LONGEST { Err(BadProxyHeader::Line) } else { Ok(Parsed::More(1)) };
    };
    if end + 1 != bytes.len() {
        return Err(BadProxyHeader::Trailing);
    }
    let text = bytes.get(V1_START.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let text = text.and_then(|line| std::str::from_utf8(line).ok()).ok_or(BadProxyHeader::Line)?;
    if bytes.len() > V1_LONGEST {
        return Err(BadProxyHeader::Line);
    }
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        ["UNKNOWN", ..] => Ok(Parsed::Whole(Proxied::Itself)),
        [family, source, target, source_port, target_port] => {
            let (source, target): (IpAddr, IpAddr) = match *family {
                "TCP4" => (v4(source)?, v4(target)?),
                "TCP6" => (v6(source)?, v6(target)?),
                _ => return Err(BadProxyHeader::Line),
            };
            let (port, _) = (port(source_port)?, port(target_port)?);
            let _checked_only = target;
            Ok(Parsed::Whole(Proxied::Client(SocketAddr::new(source, port))))
        }
        _ => Err(BadProxyHeader::Line),
    }
}

fn v4(text: &str) -> Result<IpAddr, BadProxyHeader> {
    text.parse::<Ipv4Addr>().map(IpAddr::V4).ok().ok_or(BadProxyHeader::Line)
}

fn v6(text: &str) -> Result<IpAddr, BadProxyHeader> {
    text.parse::<Ipv6Addr>()
        .map(|address| IpAddr::V6(address).to_canonical())
        .ok()
        .ok_or(BadProxyHeader::Line)
}

/// Decimal, without sign or leading zeros (section 2.1).
fn port(text: &str) -> Result<u16, BadProxyHeader> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok().ok_or(BadProxyHeader::Line) } else { Err(BadProxyHeader::Line) }
}

fn binary(bytes: &[u8]) -> Result<Parsed, BadProxyHeader> {
    let known = bytes.len().min(V2_START.len());
    if bytes.get(..known) != V2_START.get(..known) {
        return Err(BadProxyHeader::Binary);
    }
    let Some((head, rest)) = bytes.split_first_chunk::<V2_HEAD>() else {
        return Ok(Parsed::More(V2_HEAD - bytes.len()));
    };
    let [.., version_and_command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_HEAD + length > LONGEST {
        return Err(BadProxyHeader::TooLong);
    }
    let local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadProxyHeader::Binary),
    };
    if rest.len() < length {
        return Ok(Parsed::More(length - rest.len()));
    }
    if rest.len() > length {
        return Err(BadProxyHeader::Trailing);
    }
    if local {
        return Ok(Parsed::Whole(Proxied::Itself));
    }
    let client = match family {
        // AF_UNSPEC: "the receiver must ignore the address" (section 2.2).
        0x00 => return Ok(Parsed::Whole(Proxied::Itself)),
        0x11 => rest.first_chunk::<12>().map(|&[a, b, c, d, _, _, _, _, high, low, ..]| {
            SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))
        }),
        0x21 => rest.first_chunk::<36>().and_then(|addresses| {
            let source = addresses.first_chunk::<16>()?;
            let port = addresses.get(32..34)?.first_chunk::<2>()?;
            Some(SocketAddr::new(
                IpAddr::V6(Ipv6Addr::from(*source)).to_canonical(),
                u16::from_be_bytes(*port),
            ))
        }),
        // Datagrams and UNIX sockets do not reach a TCP port.
        _ => None,
    };
    client.map(|client| Parsed::Whole(Proxied::Client(client))).ok_or(BadProxyHeader::Binary)
}

/// A block of addresses, such as `10.0.0.0/8` or `2001:db8::/32` (RFC 4632, RFC 4291 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// What is no block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no block of addresses, expected such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct BadCidr(String);

impl std::str::FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (network, prefix) = text.split_once('/').ok_or_else(bad)?;
        let network: IpAddr = network.parse().ok().ok_or_else(bad)?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let prefix: u8 = prefix.parse().ok().ok_or_else(bad)?;
        let longest = if network.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(bad());
        }
        Ok(Self { network, prefix })
    }
}

impl Cidr {
    /// Whether `address` is one of the block's. An IPv4 address is one also when it is written as IPv6.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, bits: u8| {
            let differing = bits.saturating_sub(self.prefix);
            (a ^ b).checked_shr(u32::from(differing)).unwrap_or(0) == 0
        };
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            (IpAddr::V6(a), IpAddr::V4(b)) => same(a.to_bits(), b.to_ipv6_mapped().to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests;
