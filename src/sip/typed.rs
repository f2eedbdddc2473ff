//! Typed values of the messages the proxy originates, through `rsip`. The only file that names it.
//!
//! `rsip` reads and writes single values here, never a received or forwarded message: its parser refuses legal
//! messages and its printer changes bytes.

use std::sync::LazyLock;

use rsip::headers::typed;
use rsip::{Method, StatusCode};

/// The status codes the proxy sends of its own, with the phrases of RFC 3261 §21.
const PHRASES: &[(u16, &str)] = &[
    (100, "Trying"),
    (180, "Ringing"),
    (181, "Call Is Being Forwarded"),
    (182, "Queued"),
    (200, "OK"),
    (302, "Moved Temporarily"),
    (400, "Bad Request"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (408, "Request Timeout"),
    (416, "Unsupported URI Scheme"),
    (420, "Bad Extension"),
    (422, "Session Interval Too Small"),
    (480, "Temporarily Unavailable"),
    (481, "Call/Transaction Does Not Exist"),
    (482, "Loop Detected"),
    (483, "Too Many Hops"),
    (484, "Address Incomplete"),
    (486, "Busy Here"),
    (487, "Request Terminated"),
    (488, "Not Acceptable Here"),
    (500, "Server Internal Error"),
    (502, "Bad Gateway"),
    (503, "Service Unavailable"),
    (504, "Server Time-out"),
    (505, "Version Not Supported"),
    (513, "Message Too Large"),
    (600, "Busy Everywhere"),
    (603, "Decline"),
    (604, "Does Not Exist Anywhere"),
    (606, "Not Acceptable"),
];

static STATUS_LINES: LazyLock<Vec<(u16, String)>> = LazyLock::new(|| {
    (100..700)
        .map(|status| {
            // rsip prints its own variants without the blanks of the phrase; `Other` prints what it is given.
            let phrase = PHRASES.iter().find(|known| known.0 == status).map_or("Refused", |known| known.1);
            (status, format!("SIP/2.0 {}\r\n", StatusCode::Other(status, phrase.into())))
        })
        .collect()
});

static ALLOW: LazyLock<String> = LazyLock::new(|| {
    let methods = vec![
        Method::Invite,
        Method::Ack,
        Method::Bye,
        Method::Cancel,
        Method::Options,
        Method::Info,
        Method::Message,
        Method::Notify,
        Method::PRack,
        Method::Refer,
        Method::Subscribe,
        Method::Update,
    ];
    format!("Allow: {}\r\n", typed::Allow::from(methods))
});

/// The status line with its line end; statuses outside 100 to 699 give that of 500.
pub fn status_line(status: u16) -> &'static str {
    let at = usize::from(if (100..700).contains(&status) { status } else { 500 }) - 100;
    &STATUS_LINES[at].1
}

/// The Allow line of an answer to OPTIONS.
pub fn allow_line() -> &'static str {
    &ALLOW
}

/// A Contact line for a redirection; `None` when `rsip` cannot read the URI, so that the caller writes it as it is.
pub fn contact_line(uri: &str) -> Option<String> {
    let parsed = rsip::Uri::try_from(uri).ok()?;
    let contact = typed::Contact { display_name: None, uri: parsed, params: Vec::new() };
    let line = format!("Contact: {contact}\r\n");
    // Its printer is known to lose things (the brackets of an IPv6 reference, a dotted user): only a faithful one counts.
    (line.len() == uri.len() + 13 && line.contains(uri)).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_keep_the_blanks_of_their_phrases() {
        assert_eq!(status_line(486), "SIP/2.0 486 Busy Here\r\n");
        assert_eq!(status_line(100), "SIP/2.0 100 Trying\r\n");
        assert_eq!(status_line(0), "SIP/2.0 500 Server Internal Error\r\n");
        assert_eq!(status_line(599), "SIP/2.0 599 Refused\r\n");
    }

    #[test]
    fn contacts_are_written_faithfully_or_not_at_all() {
        assert_eq!(contact_line("sip:9000@192.0.2.1:5070").as_deref(), Some("Contact: <sip:9000@192.0.2.1:5070>\r\n"));
        for uri in ["sip:[2001:db8::1]:5060", "sip:john.doe@example.com"] {
            let line = contact_line(uri);
            assert!(line.as_deref().is_none_or(|line| line.contains(uri)), "{line:?}");
        }
    }

    #[test]
    fn the_allow_line_names_what_is_relayed() {
        assert!(allow_line().starts_with("Allow: INVITE"), "{}", allow_line());
        assert!(allow_line().contains("UPDATE"));
    }
}
