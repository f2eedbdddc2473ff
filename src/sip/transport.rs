//! Transports, by their names in Via (RFC 3261 §20.42, RFC 7118 §5.1) and in URIs.

/// What carries a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum Transport {
    /// Datagrams.
    #[default]
    Udp,
    /// A byte stream.
    Tcp,
    /// A byte stream that TLS protects.
    Tls,
    /// WebSocket (RFC 7118).
    Ws,
    /// WebSocket over TLS.
    Wss,
}

/// A URI names a transport that is not spoken here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownTransport;

impl Transport {
    /// Every transport.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// As the configuration and URIs write it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// As Via writes it.
    pub const fn via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// The transport of that name, whatever its case.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.label().as_bytes().eq_ignore_ascii_case(name))
    }

    /// What a URI of ours says so that answers come back the same way. RFC 7118 §5.3: `ws` also for WSS.
    pub const fn uri_parameter(self) -> &'static str {
        match self {
            Self::Udp => "",
            Self::Tcp => ";transport=tcp",
            Self::Tls => ";transport=tls",
            Self::Ws | Self::Wss => ";transport=ws",
        }
    }

    /// Whether nothing it took is lost: then nobody sends again (RFC 3261 §17).
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Whether TLS protects it.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether it is WebSocket: the other side is a browser, to which nobody can connect.
    pub const fn is_web_socket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// The port when none is written (RFC 3261 §19.1.2, RFC 6455 §3).
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    /// The same over TLS; `None` for UDP.
    pub const fn secured(self) -> Option<Self> {
        match self {
            Self::Udp => None,
            Self::Tcp | Self::Tls => Some(Self::Tls),
            Self::Ws | Self::Wss => Some(Self::Wss),
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}
