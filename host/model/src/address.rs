//! Which addresses belong to the public internet, and which URLs name this machine: the two predicates behind every guard against
//! requests that are lured into the own network, or go over it in the clear.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Whether a URL says itself that it leads to this machine: `localhost`, 127.0.0.0/8 or `[::1]`, as in RFC 8252 section 7.3. What a
/// name resolves to is another question.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Whether an address belongs to the public internet, by the IANA special-purpose registries (RFC 6890). An IPv6 address
/// that holds an IPv4 address (mapped, NAT64, 6to4) leads where that one leads. Names must be resolved first, and the
/// connection made to the very address that was asked about, or the name may change its mind in between.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        // This network; multicast, reserved and broadcast.
        || a == 0
        || a >= 224
        // Carriers' own networks (RFC 6598).
        || (a == 100 && (64..128).contains(&b))
        // Protocol assignments, relays of 6to4, benchmarks.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let embedded = |high: u16, low: u16| is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments with Teredo, and documentation (RFC 3849, RFC 9637).
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Only 2000::/3 is given out, which leaves out loopback, compatible, unique local, link-local and multicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Whether an address belongs to somebody's own network (RFC 1918, RFC 6598, RFC 4193): neither this machine, nor a link, nor
/// where clouds hand out their machines' credentials.
pub fn is_own_network(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            v4.is_private() || (shared && [a, b, c, d] != [100, 100, 100, 200])
        }
        IpAddr::V6(v6) => v6.segments()[0] & 0xfe00 == 0xfc00 && v6.segments()[..2] != [0xfd00, 0xec2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_network_holds_no_metadata() {
        for own in ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1"] {
            assert!(is_own_network(own.parse().unwrap()), "{own}");
        }
        for other in
            ["127.0.0.1", "169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "0.0.0.0", "8.8.8.8", "::1"]
        {
            assert!(!is_own_network(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn private_addresses_are_recognised_in_every_disguise() {
        let private = "127.0.0.1 127.255.255.255 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 \
            100.127.255.255 0.0.0.0 0.1.2.3 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 198.18.0.1 192.0.0.1 192.0.2.1 \
            192.88.99.1 203.0.113.1 ::1 :: fe80::1 fc00::1 fd00::1 fd00:ec2::254 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 \
            ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1::1 2001:db8::1 2001::1 \
            3fff:fff::1 ::127.0.0.1 ::8.8.8.8";
        for address in private.split_whitespace() {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_url_names_this_machine_in_three_ways() {
        for ours in [
            "http://localhost/",
            "http://LOCALHOST:1/",
            "https://127.0.0.1/",
            "http://127.9.9.9/",
            "http://[::1]:1/",
            "http://0x7f.1/",
        ] {
            assert!(is_loopback(&ours.parse().unwrap()), "{ours}");
        }
        for others in
            ["http://localhost.example/", "http://127.0.0.1.example/", "http://10.0.0.1/", "http://[::2]/", "data:x"]
        {
            assert!(!is_loopback(&others.parse().unwrap()), "{others}");
        }
    }

    #[test]
    fn public_addresses_are_public() {
        let public = "1.1.1.1 8.8.8.8 172.32.0.1 100.128.0.1 192.0.1.1 198.20.0.1 223.255.255.255 2606:4700::1111 \
            2001:4860:4860::8888 3fff:1000::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1";
        for address in public.split_whitespace() {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
