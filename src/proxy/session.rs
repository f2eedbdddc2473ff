//! Session timers (RFC 4028 §8): who refreshes a session, and how long it may go on without.

use std::time::Duration;

use super::{Context, Proxy, Role};
use crate::config::SessionRules;
use crate::sip::{HeaderName, Message, Method, Text, decimal};
use crate::store::Key;
use crate::time::Instant;

/// §4: "the default is 90 seconds when the Min-SE header field is not present".
const MIN_SE: u32 = 90;

/// What a request says of its session's timer, and what we make of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Session {
    /// Session-Expires as it goes on; 0: none.
    pub(super) expires: u32,
    /// Whether the sender knows session timers.
    pub(super) is_known: bool,
}

/// What changes in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SessionChange {
    pub(super) expires: Option<u32>,
    pub(super) min_se: Option<u32>,
}

impl SessionChange {
    /// The header fields and their new numbers; empty where nothing changes.
    pub(super) fn numbers(self) -> [(HeaderName, Text<10>); 2] {
        let number = |seconds: Option<u32>| {
            let mut text = Text::default();
            if let Some(seconds) = seconds {
                text.push_number(seconds);
            }
            text
        };
        [(HeaderName::SessionExpires, number(self.expires)), (HeaderName::MinSe, number(self.min_se))]
    }
}

/// Seconds at the start of a value, before its parameters.
fn seconds(message: &Message<'_>, name: HeaderName) -> Option<u32> {
    let value = message.value(name)?;
    let digits = value.iter().take_while(|octet| octet.is_ascii_digit()).count();
    decimal(&value[..digits])
}

/// Whether `tag` is among the option tags of a header.
/// Whether a header field names an option tag.
pub(super) fn lists(message: &Message<'_>, name: HeaderName, tag: &[u8]) -> bool {
    message.list(name).any(|span| message.slice(span).eq_ignore_ascii_case(tag))
}

/// §8.1 for an INVITE or UPDATE. `Err`: it must be refused with 422, and this Min-SE.
pub(super) fn plan(rules: Option<SessionRules>, message: &Message<'_>) -> Result<(Session, SessionChange), u32> {
    let expires = seconds(message, HeaderName::SessionExpires);
    let Some(rules) = rules else { return Ok((Session { expires: 0, is_known: false }, SessionChange::default())) };
    let is_known = lists(message, HeaderName::Supported, b"timer");
    let least = seconds(message, HeaderName::MinSe);
    let mut change = SessionChange::default();
    let floor = match expires {
        Some(expires) if expires < rules.min_se && is_known => return Err(rules.min_se),
        Some(expires) if expires < rules.min_se => {
            let floor = least.unwrap_or(MIN_SE).max(rules.min_se);
            change.min_se = Some(floor).filter(|_| least != Some(floor));
            floor
        }
        _ => least.unwrap_or(MIN_SE),
    };
    // Never above what was asked for, never below the floor.
    let wanted = expires.map_or(rules.expires, |expires| expires.min(rules.expires)).max(floor);
    change.expires = Some(wanted).filter(|_| expires != Some(wanted));
    Ok((Session { expires: wanted, is_known }, change))
}

impl Proxy {
    /// What changes in a request that goes on; its answers will be read in that light.
    pub(super) fn plan_session(&mut self, server: Key, message: &Message<'_>) -> SessionChange {
        let rules = self.router.config.session;
        let Some(transaction) = self.transactions.server_mut(server).filter(|it| is_refresh(&it.context)) else {
            return SessionChange::default();
        };
        if transaction.context.role == Role::Other {
            // Of no call of ours: its timer is none of our business.
            return SessionChange::default();
        }
        if rules.is_none() {
            return SessionChange::default();
        }
        let Ok((session, change)) = plan(rules, message) else { return SessionChange::default() };
        transaction.context.session = session;
        change
    }

    /// A 2xx to an INVITE or UPDATE: until when the session may go on without another. Says what to add to the answer when
    /// its sender knows no session timers and the other side does (§8.2).
    pub(super) fn session_answered(
        &mut self,
        now: Instant,
        call: Key,
        session: Session,
        message: &Message<'_>,
    ) -> Option<u32> {
        let received = seconds(message, HeaderName::SessionExpires);
        let added = Some(session.expires).filter(|expires| received.is_none() && session.is_known && *expires > 0);
        if let Some(call) = self.calls.get_mut(call).filter(|call| call.rare().ending.is_none()) {
            let lease = received.or(added).map(|expires| now + Duration::from_secs(u64::from(expires)));
            call.lease = lease.unwrap_or(Instant::ZERO);
            if call.rare().is_overdue {
                call.rare_mut().is_overdue = false;
            }
        }
        self.watch_call(call);
        added
    }
}

/// Whether the answers to a request carry session timers.
pub(super) fn is_refresh(context: &Context) -> bool {
    matches!(context.method, Method::Invite | Method::Update)
}

/// The lines that tell the caller to refresh (§8.2): "It MUST set the value of the 'refresher' parameter to 'uac'."
pub(super) fn push_lines<const N: usize>(lines: &mut Text<N>, expires: u32, has_require: bool) {
    lines.push(format_args!("Session-Expires: {expires};refresher=uac\r\n"));
    if !has_require {
        lines.push_bytes(b"Require: timer\r\n");
    }
}
