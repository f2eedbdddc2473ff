use crate::world::*;

fn ringing() -> (World, usize) {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Ring);
    let caller = world.invite("100");
    world.run();
    (world, caller)
}

#[test]
fn a_cancelled_call_gets_487_and_frees_its_channel_when_the_pbx_says_so() {
    let (mut world, caller) = ringing();
    assert!(world.cancel(caller));
    world.run();
    assert_eq!((world.final_answer(caller), world.in_use()), (487, 0));
    assert_eq!(world.reached(PBX, "CANCEL"), 1);
    assert_eq!(world.callees[0].acks, 1);
    assert!(world.callers[caller].last.starts_with("SIP/2.0 487"));
    world.run_for(40_000);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn a_cancel_before_any_answer_of_the_pbx_waits_for_one() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Silent);
    let caller = world.invite("100");
    world.run();
    assert!(world.cancel(caller));
    world.run();
    assert_eq!(world.reached(PBX, "CANCEL"), 0, "RFC 3261 §9.1");
    assert!(world.last_at(CALLER, "SIP/2.0 200").contains("CSeq: 1 CANCEL"));
    world.callee_says(0, "180 Ringing");
    world.callees[0].over = false;
    world.modes.insert(at(PBX), Mode::Ring);
    world.run();
    assert_eq!((world.reached(PBX, "CANCEL"), world.final_answer(caller), world.in_use()), (1, 487, 0));
}

#[test]
fn a_cancel_of_a_call_the_pbx_never_hears_of_ends_with_487() {
    let mut world = World::new(&config(1, &menu("overflow = [{ route = \"voicemail\" }]")));
    world.modes.insert(at(PBX), Mode::Silent);
    let caller = world.invite("100");
    world.run();
    world.cancel(caller);
    world.run_for(6_000);
    assert_eq!((world.final_answer(caller), world.in_use()), (487, 1));
    world.run_for(27_000);
    assert_eq!(world.in_use(), 0);
    assert_eq!(world.reached(VOICEMAIL, "INVITE"), 0, "who has hung up is not sent to the voicemail");
}

#[test]
fn c4_5_a_cancel_that_crosses_the_2xx_leaves_the_call_up_and_counted_until_its_bye() {
    let (mut world, caller) = ringing();
    world.accept(0);
    world.callers[caller].up = false;
    world.cancel(caller);
    world.run();
    assert_eq!((world.final_answer(caller), world.in_use()), (200, 1));
    assert!(world.callers[caller].up);
    world.hang_up(End::Caller, caller);
    world.run();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_pbx_that_ignores_the_cancel_holds_the_channel_for_64_t1_and_no_longer() {
    let mut world = World::new(&config(1, &menu("")));
    world.modes.insert(at(PBX), Mode::Stuck);
    let caller = world.invite("100");
    world.run();
    world.cancel(caller);
    world.run_for(31_000);
    assert_eq!(world.in_use(), 1);
    world.run_for(2_000);
    assert_eq!((world.in_use(), world.final_answer(caller)), (0, 487));
    world.run_for(40_000);
    assert!(world.proxy.is_idle(), "{:?}", world.proxy.load());
}

#[test]
fn timer_c_cancels_a_call_that_rings_for_ever() {
    let (mut world, caller) = ringing();
    world.run_for(180_000);
    assert_eq!(world.reached(PBX, "CANCEL"), 0);
    world.run_for(2_000);
    assert_eq!((world.reached(PBX, "CANCEL"), world.final_answer(caller), world.in_use()), (1, 487, 0));
}

#[test]
fn a_provisional_answer_restarts_timer_c() {
    let (mut world, caller) = ringing();
    world.run_for(170_000);
    world.callee_says(0, "182 Queued");
    world.run_for(170_000);
    assert_eq!(world.final_answer(caller), 0);
    assert_eq!(world.callers[caller].answers, [180, 182]);
    world.run_for(20_000);
    assert_eq!(world.final_answer(caller), 487);
}

#[test]
fn copies_of_the_cancel_are_answered_and_not_sent_on() {
    let (mut world, caller) = ringing();
    let cancel = world.callers[caller].invite.replacen("INVITE ", "CANCEL ", 1).replace(" INVITE\r\n", " CANCEL\r\n");
    for _ in 0..3 {
        world.raw(CALLER, cancel.as_bytes());
    }
    assert_eq!(world.reached(PBX, "CANCEL"), 1);
    let answers =
        world.delivered.iter().filter(|(_, text)| text.starts_with("SIP/2.0 200") && text.contains("CANCEL")).count();
    assert_eq!(answers, 3);
}

// SIPp's [last_Via:] after a CANCEL is the CANCEL's own: a refusal that lacks the caller's Via.
#[test]
fn a_refusal_without_the_callers_via_still_ends_the_call() {
    let (mut world, caller) = ringing();
    let lines: Vec<&str> = world.callees[0].vias.split_inclusive("\r\n").take(1).collect();
    world.callees[0].vias = lines.concat();
    world.refuse(0, 486);
    world.run();
    assert_eq!((world.final_answer(caller), world.in_use()), (486, 0));
    world.run_for(40_000);
    assert!(world.proxy.is_idle());
}

#[test]
fn a_cancel_for_nothing_gets_481() {
    let (mut world, caller) = ringing();
    let cancel = world.callers[caller].invite.replacen("INVITE ", "CANCEL ", 1).replace(" INVITE\r\n", " CANCEL\r\n");
    world.raw(CALLER, cancel.replace("branch=z9hG4bK-", "branch=z9hG4bK-x").as_bytes());
    assert!(world.last_at(CALLER, "SIP/2.0 481").contains("CSeq: 1 CANCEL"));
    assert_eq!(world.reached(PBX, "CANCEL"), 0);
}

#[test]
fn the_callers_reason_goes_with_the_cancel() {
    let (mut world, caller) = ringing();
    let cancel = world.callers[caller].invite.replacen("INVITE ", "CANCEL ", 1).replace(" INVITE\r\n", " CANCEL\r\n");
    let reason = "Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";
    world.raw(CALLER, cancel.replace("Content-Length", &format!("{reason}Content-Length")).as_bytes());
    assert!(world.last_at(PBX, "CANCEL").contains(reason));
}
