//! The torture messages, each answered as `torture/index.tsv` says.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sipweir::proxy::{Answer, Input};
use sipweir::route::Found;
use sipweir::sip::{HeaderName, Message, Method};

use crate::world::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/torture")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() { files.extend(files_below(&entry)) } else { files.push(entry) }
    }
    files
}

/// A gate that takes every domain and every number, so that the messages' own names are no reason to refuse them.
fn open_world() -> World {
    let any = "[[service]]\nname = \"any\"\nkind = \"ivr\"\nnumbers = [\"*\"]\npool = \"ivr\"\ntarget = \"pbx\"\n";
    let from = "from = [\"198.51.100.0/24\"]";
    let uri = format!("uri = [\"sip:{PBX}\"]\n");
    let text = config(10, any).replacen(from, &format!("{from}\nrelay = true"), 1).replacen(
        &uri,
        &format!("{uri}request_uri = \"keep\"\n"),
        1,
    );
    World::new(&format!("[node]\ndomains = [\"*\"]\n{text}"))
}

/// What became of a message.
#[derive(PartialEq, Eq, Debug)]
enum Fate {
    Forwarded(String),
    Answered(u16),
    Dropped,
}

fn fate(world: &mut World, bytes: &[u8]) -> Fate {
    world.raw_unanswered(CALLER, bytes);
    // Every name it asks for is there.
    for question in std::mem::take(&mut world.questions) {
        let transport = question.transport.unwrap_or_default();
        let found = Found { transport, address: at(PBX2), priority: 1, weight: 0 };
        let (answer, ttl) = (Answer::Found(vec![found]), std::time::Duration::from_secs(60));
        world.tell(Input::Resolved { question: &question, answer, ttl });
    }
    if let Some((_, text)) = world.sent.iter().find(|(_, text)| !text.starts_with("SIP/2.0 ")) {
        return Fate::Forwarded(text.clone());
    }
    let status = |text: &String| text.strip_prefix("SIP/2.0 ").and_then(|rest| rest[..3].parse::<u16>().ok());
    match world.sent.iter().filter_map(|(_, text)| status(text)).find(|status| *status > 100) {
        Some(status) => Fate::Answered(status),
        None => Fate::Dropped,
    }
}

fn accepts(accept: &str, fate: &Fate) -> bool {
    accept.split(',').any(|word| match (word, fate) {
        ("drop", Fate::Dropped) => true,
        (word, Fate::Answered(status)) => word == status.to_string(),
        ("fwd", Fate::Forwarded(_)) => true,
        ("fwd-notrail", Fate::Forwarded(text)) => !text.contains("INVITE sip:joe"),
        ("fwd-nolt", Fate::Forwarded(text)) => !text.lines().next().unwrap_or_default().contains('<'),
        ("fwd-noruriws" | "fwd-nosp", Fate::Forwarded(text)) => {
            text.lines().next().unwrap_or_default().split(' ').count() == 3
        }
        ("fwd-noescr", Fate::Forwarded(text)) => !text.lines().next().unwrap_or_default().contains('?'),
        _ => false,
    })
}

#[test]
fn every_message_of_rfc_4475_and_5118_is_answered_as_expected() {
    let index = std::fs::read_to_string(folder().join("index.tsv")).expect("the index");
    let (mut checked, mut wrong) = (0, Vec::new());
    for line in index.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [file, section, _, _, accept, ..] = fields[..] else { panic!("{line}") };
        let bytes = std::fs::read(folder().join(file)).expect(file);
        let mut world = open_world();
        let fate = fate(&mut world, &bytes);
        if !accepts(accept, &fate) {
            wrong.push(format!("{file} ({section}): expected {accept}, got {fate:?}"));
        }
        checked += 1;
        // Whatever it was, nothing of it stays.
        world.run_for(50_000_000);
        assert_eq!((world.in_use(), world.view().calls), (0, 0), "{file}");
        assert!(world.proxy.is_idle(), "{file} {:?}", world.proxy.load());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(checked, 62);
}

#[test]
fn what_is_forwarded_differs_from_the_original_only_where_a_proxy_must() {
    for (file, kept) in [
        (
            "rfc4475/intmeth.dat",
            "!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0\r\n",
        ),
        ("rfc4475/esc01.dat", "INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0\r\n"),
        ("rfc4475/esc02.dat", "RE%47IST%45R sip:registrar.example.com SIP/2.0\r\n"),
        ("rfc4475/semiuri.dat", "OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0\r\n"),
        ("rfc4475/escnull.dat", "Contact: <sip:%00@host5.example.com>\r\nContact: <sip:%00%00@host5.example.com>\r\n"),
        ("rfc4475/regescrt.dat", "<sip:user@example.com?Route=%3Csip:sip.example.com%3E>"),
    ] {
        let bytes = std::fs::read(folder().join(file)).expect(file);
        match fate(&mut open_world(), &bytes) {
            Fate::Forwarded(text) => assert!(text.contains(kept), "{file}\n{text}"),
            other @ (Fate::Answered(_) | Fate::Dropped) => panic!("{file}: {other:?}"),
        }
    }
}

#[test]
fn a_short_tortuous_invite_is_forwarded_with_one_hop_less() {
    let bytes = std::fs::read(folder().join("rfc4475/wsinv.dat")).expect("the file");
    match fate(&mut open_world(), &bytes) {
        Fate::Forwarded(sent) => {
            assert!(sent.contains("MaX-fOrWaRdS: 67\r\n"), "{sent}");
            assert!(sent.contains("NewFangledHeader:   newfangled value\r\n continued newfangled value\r\n"), "{sent}");
            assert!(sent.contains("UnknownHeaderWithUnusualValue: ;;,,;;,;\r\n"), "{sent}");
            assert!(
                sent.contains("Route:\r\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>\r\n"),
                "{sent}"
            );
        }
        other @ (Fate::Answered(_) | Fate::Dropped) => panic!("{other:?}"),
    }
}

#[test]
fn bodies_pass_byte_for_byte() {
    for file in ["rfc4475/mpart01.dat", "rfc4475/invut.dat", "rfc5118-wire/mult-ip-in-header.dat"] {
        let bytes = Bytes::from(std::fs::read(folder().join(file)).expect(file));
        let original = Message::parse(&bytes).expect(file);
        let mut world = open_world();
        world.raw_unanswered(CALLER, &bytes);
        let sent = world.raw_sent.iter().find(|(_, text)| !text.starts_with(b"SIP/2.0 ")).expect(file).1.clone();
        let forwarded = Message::parse(&sent).expect(file);
        assert_eq!(forwarded.body(), original.body(), "{file}");
        let others = |message: &Message<'_>| -> Vec<Vec<u8>> {
            let other = message.headers().iter().filter(|header| header.name == HeaderName::Other);
            other.map(|header| message.slice(header.line).to_vec()).collect()
        };
        assert_eq!(others(&forwarded), others(&original), "{file}");
    }
}

#[test]
fn responses_of_the_suite_keep_their_phrase_once_they_are_ours() {
    for (file, phrase) in [
        ("rfc4475/unreason.dat", "SIP/2.0 200 = 2**3 * 5**2 но сто девяносто девять - простое\r\n"),
        ("rfc4475/noreason.dat", "SIP/2.0 100 \r\n"),
    ] {
        let text = String::from_utf8(std::fs::read(folder().join(file)).expect(file)).expect("UTF-8");
        let message = Message::parse(text.as_bytes()).expect(file);
        assert!(message.check().is_ok() && text.starts_with(phrase), "{file}");
        // The same phrase on an answer to a call of ours goes back untouched.
        let mut world = World::new(&config(1, &menu("")));
        world.modes.insert(at(PBX), Mode::Ring);
        let caller = world.invite("100");
        world.run();
        let phrase = phrase.replacen(" 100 ", " 183 ", 1);
        world.callee_says(0, phrase.trim_start_matches("SIP/2.0 ").trim_end_matches("\r\n"));
        world.run();
        assert!(world.callers[caller].last.starts_with(&phrase), "{}", world.callers[caller].last);
    }
}

#[test]
fn the_corpora_of_other_stacks_are_read_without_a_panic() {
    let files = files_below(&folder());
    assert!(files.len() > 140, "{}", files.len());
    let mut world = open_world();
    for file in files {
        let bytes = std::fs::read(&file).expect("a file");
        if let Ok(message) = Message::parse(&bytes) {
            if let Ok(found) = message.check() {
                assert!(!found.call_id.is_empty());
            }
            for header in message.headers() {
                assert!(message.list(header.name).count() <= bytes.len());
            }
            let _: Method = message.method();
        }
        world.raw(CALLER, &bytes);
    }
    world.run_for(50_000_000);
    assert_eq!(world.in_use(), 0);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}
