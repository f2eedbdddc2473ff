//! Methods: the ones the proxy treats in a way of their own, and all others.

use std::fmt;

macro_rules! methods {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// A SIP method. Unknown ones are forwarded like any non-INVITE request (RFC 3261 §16.2).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Method {
            $(#[doc = $text] $name,)*
            /// Any method this list does not name.
            Unknown,
        }

        impl Method {
            /// Every method that has a name here, then [`Method::Unknown`].
            pub const ALL: &'static [Self] = &[$(Self::$name,)* Self::Unknown];

            /// Methods are compared with case (RFC 3261 §7.1).
            pub fn parse(token: &[u8]) -> Self {
                $(if token == $text.as_bytes() { return Self::$name; })*
                Self::Unknown
            }

            /// The method as it is written; `unknown` for those not named here.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Unknown => "unknown" }
            }
        }
    };
}

methods! {
    Invite = "INVITE", Ack = "ACK", Bye = "BYE", Cancel = "CANCEL", Options = "OPTIONS", Register = "REGISTER",
    Prack = "PRACK", Update = "UPDATE", Info = "INFO", Refer = "REFER", Notify = "NOTIFY", Message = "MESSAGE",
    Subscribe = "SUBSCRIBE", Publish = "PUBLISH",
}

impl Method {
    /// Whether a 481 or 408 to this request, sent within a dialog, says that the call is over (RFC 5057 §5.1, §5.2):
    /// a request of another usage ends only that usage.
    pub const fn is_invite_usage(self) -> bool {
        matches!(self, Self::Invite | Self::Bye | Self::Update | Self::Prack | Self::Info)
    }

    /// Whether a request without a To tag may create a dialog, so that the proxy stays on its route (RFC 3261 §16.6
    /// step 4, RFC 6665 §4, RFC 3515 §2.4.4).
    pub const fn is_dialog_forming(self) -> bool {
        matches!(self, Self::Invite | Self::Subscribe | Self::Refer | Self::Notify)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
