//! The four machines and the refusals, printed: a changed arrow shows in review.

use std::fmt::Write as _;

use sipweir::pool::Refusal;
use sipweir::transaction::{Action, Event, client, invite_client, invite_server, server, timer};

fn table<S: Copy + std::fmt::Debug>(states: &[S], step: impl Fn(S, Event) -> Option<(S, &'static [Action])>) -> String {
    let mut text = String::new();
    for state in states {
        for event in Event::all() {
            match step(*state, event) {
                Some((next, actions)) => {
                    writeln!(text, "{state:?} + {event:?} -> {next:?} {actions:?}").expect("text");
                }
                None => writeln!(text, "{state:?} + {event:?} -> absorbed").expect("text"),
            }
        }
    }
    text
}

#[test]
fn invite_client_is_figure_5_with_rfc_6026() {
    insta::assert_snapshot!(table(&invite_client::State::ALL, invite_client::step));
}

#[test]
fn invite_server_is_figure_7_with_rfc_6026() {
    insta::assert_snapshot!(table(&invite_server::State::ALL, invite_server::step));
}

#[test]
fn client_is_figure_6() {
    insta::assert_snapshot!(table(&client::State::ALL, client::step));
}

#[test]
fn server_is_figure_8() {
    insta::assert_snapshot!(table(&server::State::ALL, server::step));
}

#[test]
fn a_terminated_transaction_absorbs_everything() {
    for event in Event::all() {
        assert_eq!(invite_client::step(invite_client::State::Terminated, event), None);
        assert_eq!(invite_server::step(invite_server::State::Terminated, event), None);
        assert_eq!(client::step(client::State::Terminated, event), None);
        assert_eq!(server::step(server::State::Terminated, event), None);
    }
}

#[test]
fn every_timer_that_is_started_has_an_arrow_that_ends_it() {
    // What a state starts must fire or be stopped: else a transaction lives for ever.
    let started = |actions: &[Action]| -> Vec<timer::Timer> {
        actions
            .iter()
            .filter_map(|action| if let Action::Start(timer) = action { Some(*timer) } else { None })
            .collect()
    };
    for state in invite_server::State::ALL {
        for event in Event::all() {
            let Some((next, actions)) = invite_server::step(state, event) else { continue };
            for timer in started(actions) {
                assert!(invite_server::step(next, Event::Fired(timer)).is_some(), "{next:?} {timer:?}");
            }
        }
    }
    for state in invite_client::State::ALL {
        for event in Event::all() {
            let Some((next, actions)) = invite_client::step(state, event) else { continue };
            for timer in started(actions) {
                assert!(invite_client::step(next, Event::Fired(timer)).is_some(), "{next:?} {timer:?}");
            }
        }
    }
}

#[test]
fn timers_are_those_of_rfc_3261_appendix_a_over_udp() {
    use timer::Timer::{A, B, C, D, E, F, G, H, I, J, K, L, M};
    let lengths = timer::Lengths::default();
    let mut text = String::new();
    for timer in [A, B, C, D, E, F, G, H, I, J, K, L, M] {
        let rounds: Vec<u128> = (0..6).map(|round| lengths.of(timer, round).as_millis()).collect();
        writeln!(text, "{timer:?} {rounds:?} ms").expect("text");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn refusals_in_order_of_precedence() {
    let mut text = String::new();
    for refusal in Refusal::ALL {
        let (label, status, cause) = (refusal.label(), refusal.status(), refusal.cause());
        let plan = if refusal.takes_plan() { "takes the plan" } else { "is answered" };
        writeln!(text, "{label}: {status}, Q.850 cause {cause}, {plan}: {refusal}").expect("text");
    }
    insta::assert_snapshot!(text);
}
