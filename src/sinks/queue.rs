//! The queue of one sink: bounded, kept on disk over a restart.
//!
//! Letters are added at the end of a file; the file is written anew when all of them are delivered, or now and then. A
//! restart may therefore deliver a few letters twice, and loses none.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Counts, Letter};

/// Letters that wait at most; the oldest gives way.
const LETTERS_MAX: usize = 1000;
/// Letters gone after which the file is written anew.
const REWRITE: usize = 100;

#[derive(Default)]
struct State {
    letters: VecDeque<Letter>,
    /// What holds and is to be said again; never kept, since only the newest counts.
    again: Vec<Letter>,
    /// Whether the letters handed out last were `again`.
    was_again: bool,
    /// Whether the oldest letter is being delivered.
    is_out: bool,
    /// Lines of the file whose letters are gone.
    stale: usize,
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    file: Option<PathBuf>,
    pub(super) counts: Arc<Counts>,
}

impl Queue {
    /// Opens the queue `name`, with what was left in it. Without a folder it lives in memory.
    pub(super) fn open(folder: Option<&Path>, name: &str, counts: Arc<Counts>) -> Self {
        let file = folder.map(|folder| folder.join(format!("{name}.jsonl")));
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        // A line cut short by a crash is no letter.
        let mut letters: VecDeque<Letter> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let stale = letters.len().saturating_sub(LETTERS_MAX);
        letters.drain(..stale);
        let queue = Self {
            state: Mutex::new(State { letters, stale, ..State::default() }),
            changed: Notify::new(),
            file,
            counts,
        };
        queue.count(&queue.lock());
        queue
    }

    /// Adds a letter; in a full queue the oldest gives way.
    pub(super) fn push(&self, letter: Letter) {
        let mut state = self.lock();
        if state.letters.len() >= LETTERS_MAX {
            // Not the one that is being delivered: what is done with then must be it.
            let oldest = usize::from(state.is_out);
            drop(state.letters.remove(oldest));
            state.stale += 1;
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        let line = letter.json() + "\n";
        state.letters.push_back(letter);
        self.count(&state);
        if let Some(file) = &self.file {
            let folder = file.parent().unwrap_or_else(|| Path::new("."));
            let added = fs::create_dir_all(folder)
                .and_then(|()| OpenOptions::new().create(true).append(true).open(file))
                .and_then(|mut file| file.write_all(line.as_bytes()));
            if let Err(error) = added {
                tracing::warn!(event = "sink_queue_unwritable", %error, file = %file.display(), "kept in memory only");
            }
        }
        self.tidy(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// What holds is to be said again; takes the place of what was to be said again before.
    pub(super) fn send_again(&self, letters: Vec<Letter>) {
        self.lock().again = letters;
        self.changed.notify_one();
    }

    /// The letters to deliver next, once there are any: the oldest one, or all that holds.
    pub(super) async fn front(&self) -> Vec<Letter> {
        loop {
            {
                let mut state = self.lock();
                if let Some(letter) = state.letters.front().cloned() {
                    (state.was_again, state.is_out) = (false, true);
                    return vec![letter];
                }
                if !state.again.is_empty() {
                    state.was_again = true;
                    return state.again.clone();
                }
            }
            self.changed.notified().await;
        }
    }

    /// The letters handed out last are done with.
    pub(super) fn done(&self) {
        let mut state = self.lock();
        if state.was_again {
            state.again.clear();
            return;
        }
        state.letters.pop_front();
        state.is_out = false;
        state.stale += 1;
        self.count(&state);
        self.tidy(&mut state);
    }

    /// Writes the file anew when much of it, or all, is past.
    fn tidy(&self, state: &mut State) {
        if (state.letters.is_empty() && state.stale > 0) || state.stale >= REWRITE {
            state.stale = 0;
            self.rewrite(&state.letters);
        }
    }

    fn rewrite(&self, letters: &VecDeque<Letter>) {
        let Some(file) = &self.file else { return };
        let text: String = letters.iter().map(|letter| letter.json() + "\n").collect();
        let new = file.with_extension("new");
        if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, file)) {
            tracing::warn!(event = "sink_queue_unwritable", %error, file = %file.display(), "letters may be sent again");
        }
    }

    fn count(&self, state: &State) {
        self.counts.queued.store(state.letters.len() as u64, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Status;

    fn letter(number: usize) -> Letter {
        Letter {
            event: "pool_exhausted".into(),
            severity: "critical".into(),
            status: Status::Raised,
            subject: number.to_string(),
            node: "n".into(),
            message: String::new(),
            since: String::new(),
            at: String::new(),
            lasted_s: 0,
            refused: 0,
            uptime_s: 0,
        }
    }

    fn open(folder: &Path) -> Queue {
        Queue::open(Some(folder), "ops", Arc::default())
    }

    fn waiting(queue: &Queue) -> Vec<String> {
        queue.lock().letters.iter().map(|letter| letter.subject.clone()).collect()
    }

    #[test]
    fn what_was_not_delivered_is_there_after_a_restart_and_what_was_is_not() {
        let folder = std::env::temp_dir().join(format!("sipweir-queue-{}", std::process::id()));
        let queue = open(&folder);
        (0..3).for_each(|number| queue.push(letter(number)));
        assert_eq!(waiting(&open(&folder)), ["0", "1", "2"]);
        // A crash in the middle of a line.
        OpenOptions::new()
            .append(true)
            .open(folder.join("ops.jsonl"))
            .and_then(|mut file| file.write_all(b"{\"event\":\"po"))
            .expect("written");
        assert_eq!(waiting(&open(&folder)), ["0", "1", "2"]);
        (0..3).for_each(|_| queue.done());
        assert!(waiting(&open(&folder)).is_empty());
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_full_queue_lets_the_oldest_go_and_counts_it() {
        let folder = std::env::temp_dir().join(format!("sipweir-full-queue-{}", std::process::id()));
        let queue = open(&folder);
        (0..LETTERS_MAX + 2).for_each(|number| queue.push(letter(number)));
        assert_eq!((waiting(&queue).len(), waiting(&queue)[0].as_str()), (LETTERS_MAX, "2"));
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), 2);
        assert_eq!(queue.counts.queued.load(Ordering::Relaxed), LETTERS_MAX as u64);
        (0..2 * LETTERS_MAX).for_each(|number| queue.push(letter(number)));
        let lines = fs::read_to_string(folder.join("ops.jsonl")).expect("a file").lines().count();
        assert!(lines <= LETTERS_MAX + REWRITE, "{lines} lines on disk");
        fs::remove_dir_all(folder).expect("removed");
    }

    #[tokio::test]
    async fn the_letter_that_is_being_delivered_is_not_the_one_that_gives_way() {
        let queue = Queue::open(None, "ops", Arc::default());
        queue.push(letter(0));
        assert_eq!(queue.front().await[0].subject, "0");
        (1..LETTERS_MAX + 1).for_each(|number| queue.push(letter(number)));
        queue.done();
        assert_eq!((waiting(&queue).len(), waiting(&queue)[0].as_str()), (LETTERS_MAX - 1, "2"));
    }
}
