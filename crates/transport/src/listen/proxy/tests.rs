use proptest::prelude::*;

use super::*;

fn whole(bytes: &[u8]) -> Result<Proxied, BadProxyHeader> {
    match parse(bytes)? {
        Parsed::Whole(proxied) => Ok(proxied),
        Parsed::More(n) => panic!("{n} more bytes wanted"),
    }
}

fn client(text: &str) -> Proxied {
    Proxied::Client(text.parse().unwrap())
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&V2_START[..], &[command, family], &length, rest].concat()
}

#[test]
fn lines_of_version_1() {
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 8081\r\n", client("192.0.2.7:56324")),
        ("PROXY TCP6 2001:db8::1 2001:db8::2 65535 0\r\n", client("[2001:db8::1]:65535")),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", client("192.0.2.7:1")),
        ("PROXY UNKNOWN\r\n", Proxied::Itself),
        ("PROXY UNKNOWN anything at all\r\n", Proxied::Itself),
    ] {
        assert_eq!(whole(line.as_bytes()), Ok(expected), "{line}");
    }
    for bad in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 8081\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 8081 9\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 056324 8081\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +5 8081\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 8081\r\n",
        "PROXY TCP4 192.0.2 198.51.100.1 5 8081\r\n",
        "PROXY TCP4 2001:db8::1 198.51.100.1 5 8081\r\n",
        "PROXY TCP6 192.0.2.7 ::1 5 8081\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 5 8081\r\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 5 8081\r\n",
        "PROXZ",
        "PROXY\r\n",
    ] {
        assert_eq!(parse(bad.as_bytes()), Err(BadProxyHeader::Line), "{bad}");
    }
    assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'x'; 101]].concat()), Err(BadProxyHeader::Line), "no end");
}

#[test]
fn headers_of_version_2() {
    let four = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x1f, 0x91];
    assert_eq!(whole(&v2(0x21, 0x11, &four)), Ok(client("192.0.2.7:56324")));
    let with_tlv = [&four[..], &[0x04, 0, 1, 9]].concat();
    assert_eq!(whole(&v2(0x21, 0x11, &with_tlv)), Ok(client("192.0.2.7:56324")));
    let mut six = [0; 36];
    six[..2].copy_from_slice(&[0x20, 0x01]);
    six[15] = 5;
    six[33] = 80;
    assert_eq!(whole(&v2(0x21, 0x21, &six)), Ok(client("[2001::5]:80")));
    assert_eq!(whole(&v2(0x20, 0x00, &[])), Ok(Proxied::Itself));
    assert_eq!(whole(&v2(0x20, 0x11, &four)), Ok(Proxied::Itself), "a LOCAL command's addresses are ignored");
    assert_eq!(whole(&v2(0x21, 0x00, &[1, 2, 3])), Ok(Proxied::Itself));
    for bad in [
        v2(0x11, 0x11, &four),
        v2(0x22, 0x11, &four),
        v2(0x21, 0x12, &four),
        v2(0x21, 0x31, &[0; 216]),
        v2(0x21, 0x11, &four[..11]),
        v2(0x21, 0x21, &six[..35]),
        b"\r\n\r\n\0\r\nQUIX".to_vec(),
    ] {
        assert_eq!(parse(&bad), Err(BadProxyHeader::Binary), "{bad:?}");
    }
    assert_eq!(parse(&v2(0x21, 0x11, &[0; 2_049])), Err(BadProxyHeader::TooLong));
    assert_eq!(whole(&v2(0x21, 0x11, &[0; 2_048])), Ok(client("0.0.0.0:0")));
}

#[test]
fn neither_tls_nor_http_is_a_header() {
    assert_eq!(parse(&[0x16, 3, 1]), Err(BadProxyHeader::Unknown));
    assert!(!begins(0x16) && begins(b'P') && begins(b'\r'));
}

#[test]
fn blocks_of_addresses() {
    for (block, inside, outside) in [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
        ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("::1/128", "::1", "::2"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
    ] {
        let cidr: Cidr = block.parse().unwrap();
        assert!(cidr.contains(inside.parse().unwrap()), "{inside} in {block}");
        assert!(!cidr.contains(outside.parse().unwrap()), "{outside} not in {block}");
    }
    assert!("::/0".parse::<Cidr>().unwrap().contains("2001:db8::1".parse().unwrap()));
    for bad in
        ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "x/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/-1"]
    {
        assert!(bad.parse::<Cidr>().is_err(), "{bad}");
    }
}

/// Reads as the listener does: never more than was asked for. Says how much was read.
fn stepwise(bytes: &[u8]) -> (usize, Result<Proxied, BadProxyHeader>) {
    let mut have = 0;
    loop {
        match parse(&bytes[..have]) {
            Ok(Parsed::Whole(proxied)) => return (have, Ok(proxied)),
            Ok(Parsed::More(n)) => {
                assert!(n > 0);
                if have + n > bytes.len() {
                    return (have, Err(BadProxyHeader::Unknown));
                }
                have += n;
            }
            Err(error) => return (have, Err(error)),
        }
    }
}

proptest! {
    #[test]
    fn a_header_ends_where_tls_begins(
        addr: std::net::Ipv4Addr, port: u16, six: std::net::Ipv6Addr, tlv in prop::collection::vec(any::<u8>(), 0..300),
        after in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let line = format!("PROXY TCP4 {addr} 198.51.100.1 {port} 8081\r\n").into_bytes();
        let expected = Proxied::Client(SocketAddr::new(addr.into(), port));
        let rest = [&addr.octets()[..], &[1, 2, 3, 4], &port.to_be_bytes(), &[0, 1], &tlv].concat();
        let sixes = [&six.octets()[..], &[9; 16], &port.to_be_bytes(), &[0, 1], &tlv].concat();
        let of_six = Proxied::Client(SocketAddr::new(IpAddr::V6(six).to_canonical(), port));
        for (header, expected) in
            [(line, expected), (v2(0x21, 0x11, &rest), expected), (v2(0x21, 0x21, &sixes), of_six)]
        {
            let stream = [&header[..], &after].concat();
            prop_assert_eq!(stepwise(&stream), (header.len(), Ok(expected)));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_read_on(start in 0..3_usize, bytes: Vec<u8>) {
        let start: &[u8] = [&b"PROXY "[..], &V2_START[..], &[]][start];
        let (read, _) = stepwise(&[start, &bytes].concat());
        prop_assert!(read <= LONGEST);
    }
}
