//! How far requests may go. What decides is the address that a connection is made to, after its
//! name was resolved: a name can be made to resolve to anything, and to something else each time.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use url::{Host, Url};

/// Longest address.
pub const URL_BYTES_MAX: usize = 2_048;

/// Not on the Internet, by IANA's registry of special-purpose addresses, and not for single hosts.
const SPECIAL_V4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // Azure tells its virtual machines about themselves here.
    "168.63.129.16/32",
];

/// Of the one block that IANA gives addresses on the Internet from.
const GLOBAL_V6: &str = "2000::/3";

/// Not on the Internet all the same; the first holds Teredo.
const SPECIAL_V6: &[&str] = &["2001::/23", "2001:db8::/32", "3fff::/20"];

/// NAT64 (RFC 6052) and 6to4 (RFC 3056): an IPv4 address is inside.
const NAT64: &str = "64:ff9b::/96";
const SIX_TO_FOUR: &str = "2002::/16";

/// A network or a single address, such as `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no network such as 10.1.0.0/16 or fd00::/8, and no address")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| NetworkError(text.to_owned()))
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

/// Why requests cannot go to an address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("it is no URL: {0}")]
    Url(url::ParseError),
    #[error("it is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("it begins with {0}:, but must begin with https:")]
    Scheme(String),
    #[error("it holds a user name or a password")]
    UserInfo,
    #[error("it has a fragment (#...), which is never sent")]
    Fragment,
    #[error("{0} is not on the Internet, and not among the networks that are allowed besides")]
    OutOfReach(IpAddr),
}

/// Where requests may go.
#[derive(Clone, Debug)]
pub struct Reach(Option<Arc<Limits>>);

#[derive(Debug)]
struct Limits {
    http_allowed: bool,
    networks: Vec<IpNet>,
    hosts: Vec<String>,
}

impl Reach {
    /// To wherever they are sent: for addresses that the operator of this process chose.
    pub const fn anywhere() -> Self {
        Self(None)
    }

    /// To the Internet, over TLS unless plain HTTP is allowed; and to these networks, and wherever
    /// these host names resolve to.
    pub fn internet(http_allowed: bool, networks: &[Network], hosts: &[String]) -> Self {
        let networks = networks.iter().map(|network| network.0).collect();
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self(Some(Arc::new(Limits { http_allowed, networks, hosts })))
    }

    /// Reads an address, and refuses what can be seen to be out of reach. Whether a name resolves
    /// to something within it is seen only as it is connected to.
    ///
    /// # Errors
    /// Says what is wrong with the address.
    pub fn check(&self, address: &str) -> Result<Url, AddressError> {
        if address.len() > URL_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        let url = Url::parse(address).map_err(AddressError::Url)?;
        match url.scheme() {
            "https" => {}
            "http" if self.admits_http() => {}
            other => return Err(AddressError::Scheme(other.to_owned())),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(AddressError::Fragment);
        }
        // The parser reads decimal, octal and hexadecimal forms as resolvers do.
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        match literal {
            Some(literal) if !self.admits("", literal) => Err(AddressError::OutOfReach(literal)),
            _ => Ok(url),
        }
    }

    /// Whether it ends nowhere.
    pub const fn is_anywhere(&self) -> bool {
        self.0.is_none()
    }

    /// Whether requests may go without TLS.
    pub fn admits_http(&self) -> bool {
        self.0.as_ref().is_none_or(|limits| limits.http_allowed)
    }

    /// Whether a connection to this address, which the host's name resolved to, may be made.
    pub fn admits(&self, host: &str, address: IpAddr) -> bool {
        let Some(limits) = &self.0 else { return true };
        let address = address.to_canonical();
        limits.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
            || limits.networks.iter().any(|network| network.contains(&address))
            || is_on_the_internet(address)
    }
}

fn is_on_the_internet(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|network| v4(network).contains(&address)),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(embedded) => is_on_the_internet(IpAddr::V4(embedded)),
            None => {
                v6(GLOBAL_V6).contains(&address)
                    && !SPECIAL_V6.iter().any(|network| v6(network).contains(&address))
            }
        },
    }
}

/// The address to which a gateway translates this one.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = address.octets();
    let embedded: [u8; 4] = if v6(NAT64).contains(&address) {
        bytes[12..].try_into().ok()?
    } else if v6(SIX_TO_FOUR).contains(&address) {
        bytes[2..6].try_into().ok()?
    } else {
        return None;
    };
    Some(embedded.into())
}

fn v4(network: &str) -> Ipv4Net {
    network.parse().expect("the table holds networks")
}

fn v6(network: &str) -> Ipv6Net {
    network.parse().expect("the table holds networks")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internet() -> Reach {
        Reach::internet(false, &[], &[])
    }

    #[test]
    fn only_the_internet_is_within_reach() {
        for inside in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.255.255",
            "169.253.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(internet().admits("h", inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.1.2.3",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "4000::1",
            "fec0::1",
        ] {
            assert!(!internet().admits("h", outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn what_is_allowed_besides_is_within_reach() {
        let networks = ["10.1.0.0/16", "::1"].map(|network| network.parse().unwrap());
        let reach = Reach::internet(false, &networks, &["Hooks.Internal".to_owned()]);
        for (host, address, admitted) in [
            ("h", "10.1.2.3", true),
            ("h", "::ffff:10.1.2.3", true),
            ("h", "10.2.0.1", false),
            ("h", "::1", true),
            ("hooks.internal", "192.168.1.1", true),
            ("other.hooks.internal", "192.168.1.1", false),
        ] {
            assert_eq!(reach.admits(host, address.parse().unwrap()), admitted, "{host} {address}");
        }
        assert!("10.1.0.0/33".parse::<Network>().is_err());
        assert!(Reach::anywhere().admits("h", "127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn addresses_are_read_strictly() {
        let ok = internet().check("HTTPS://Example.ORG:8443/a?b=c").unwrap();
        assert_eq!(ok.as_str(), "https://example.org:8443/a?b=c");
        for (address, what) in [
            ("hooks", "no URL"),
            ("https://", "no URL"),
            ("http://example.org/", "must begin with https"),
            ("ftp://example.org/", "must begin with https"),
            ("file:///etc/passwd", "must begin with https"),
            ("https://user@example.org/", "user name"),
            ("https://:secret@example.org/", "password"),
            ("https://example.org/#a", "fragment"),
            ("https://127.0.0.1/", "not on the Internet"),
            ("https://2130706433/", "127.0.0.1 is not"),
            ("https://0x7f000001/", "127.0.0.1 is not"),
            ("https://0177.0.0.1/", "127.0.0.1 is not"),
            ("https://127.1/", "127.0.0.1 is not"),
            ("https://0/", "0.0.0.0 is not"),
            ("https://[::1]/", "::1 is not"),
            ("https://[::ffff:127.0.0.1]/", "not on the Internet"),
            ("https://①②⑦.⓪.⓪.①/", "127.0.0.1 is not"),
        ] {
            let refused = internet().check(address).unwrap_err().to_string();
            assert!(refused.contains(what), "{address}: {refused}");
        }
        let long = format!("https://example.org/{}", "x".repeat(URL_BYTES_MAX));
        assert!(matches!(internet().check(&long), Err(AddressError::TooLong)));
        assert!(Reach::internet(true, &[], &[]).check("http://example.org/").is_ok());
    }
}
