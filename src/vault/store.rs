//! The folder: installing, removing, reading again, and the latest time seen.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::document::{KeyFile, decode, peek};
use crate::config::{Config, Licensing};
use crate::licence::{Change, DAY, Kind, Licence, Rejection, Standing, State, Terms, Wall};

/// Licences installed at a time.
const LICENCES_MAX: usize = 1000;
/// Days of full function after the installation (seed 000).
const TRIAL_DAYS: u32 = 30;
/// A clock set back by no more than this is not worth a word: time services do it.
const CLOCK_TOLERANCE: i64 = 15 * 60;
/// How long a clock that jumped ahead must go on from there before it is believed, in seconds.
const JUMP_HOLDS: i64 = 3600;
/// Moments of the calendar looked at before a licence is let in or out.
const MOMENTS_MAX: usize = 10_000;
/// What was done, one line each.
const HISTORY: &str = "history.jsonl";
/// How often the latest time seen is written down, in seconds.
const CLOCK_EVERY: i64 = 60;

/// Why a command on the licences fails.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The licence is at fault.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The files are.
    #[error("{}: {error}; sipweir keeps its licences there: run this as the user sipweir runs as, or give the folder to that user (chown)", .path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file holds something else.
    #[error("{}: {what}", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The configuration names no place for them.
    #[error("node.data_dir: is missing; write data_dir = \"/var/lib/sipweir\": licences are kept there")]
    NoDataDir,
}

/// What is remembered besides the licences.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Memory {
    /// When sipweir was installed here.
    installed: Wall,
    /// The latest time seen.
    latest: Wall,
    /// Codes of trial licences ever installed here.
    trials: Vec<String>,
}

/// One line of the history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: Wall,
    /// `installed`, `removed` or `refused`.
    pub action: String,
    /// The licence's code, when it could be read.
    pub code: String,
    /// Why it was refused, or what changed.
    pub why: String,
}

/// What the clock says, and what counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// The time licences are judged by: the latest ever seen.
    pub counts: Wall,
    /// The clock on the wall, when it was set back by more than is tolerated.
    pub set_back_to: Option<Wall>,
}

/// A licence in the folder.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The licence.
    pub licence: Licence,
    file: PathBuf,
}

/// What is in the folder.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The licences, oldest installation first.
    pub good: Vec<Installed>,
    /// The files that hold none, and why.
    pub bad: Vec<(PathBuf, Rejection)>,
}

/// What a change did, or would do.
#[derive(Clone, Debug)]
pub struct Done {
    /// The licence.
    pub licence: Licence,
    /// What pools and services have before and after.
    pub changes: Vec<Change>,
}

/// The licences of a node.
pub struct Vault {
    folder: PathBuf,
    token: String,
    memory: Memory,
    /// Since when the clock has been far ahead of the latest time seen.
    jumped: Option<Wall>,
}

impl Vault {
    /// Opens the folder below `node.data_dir`, making what is missing.
    pub fn open(config: &Config, now: Wall) -> Result<Self, VaultError> {
        let data_dir = config.data_dir.as_deref().ok_or(VaultError::NoDataDir)?;
        let folder = Path::new(data_dir).join("licences");
        make_folder(Path::new(data_dir), &folder).map_err(|error| VaultError::Files { path: folder.clone(), error })?;
        let _lock = lock(&folder)?;
        let key_path = folder.join("server.key");
        let key = match read(&key_path)? {
            Some(text) => KeyFile::from_pem(&text).ok_or_else(|| VaultError::Damaged {
                path: key_path.clone(),
                what: "is no private key; restore it from a backup, or remove it for a new server token (licences bound to the old one will not load)".into(),
            })?,
            None => {
                let key = KeyFile::generate()
                    .map_err(|error| VaultError::Files { path: key_path.clone(), error: io::Error::other(error) })?;
                write(&key_path, &key.to_pem())?;
                key
            }
        };
        let memory_path = folder.join("state.json");
        let memory = match read(&memory_path)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| VaultError::Damaged {
                path: memory_path,
                what: format!("cannot be read ({error}); restore it from a backup"),
            })?,
            // What was remembered is lost: nobody gets a second trial for that.
            None if folder.join(HISTORY).exists() => {
                Memory { installed: Wall(0), latest: now, trials: vec!["state.json is lost".into()] }
            }
            // Looking is not starting: the trial period begins when a node runs, or something is installed.
            None => Memory { installed: now, latest: now, trials: Vec::new() },
        };
        Ok(Self { folder, token: key.token(), memory, jumped: None })
    }

    /// A node runs: if none ever did, the trial period begins.
    pub fn begin(&mut self) -> Result<(), VaultError> {
        let _lock = lock(&self.folder)?;
        if self.memory_path().exists() { self.recall() } else { self.remember() }
    }

    fn memory_path(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// This server's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What the clock says. The latest time seen is written down once a minute; one that is a day ahead of it only when
    /// the clock has gone on from there for an hour, since a clock that starts in a wrong year is set right within minutes.
    pub fn clock(&mut self, now: Wall) -> Result<Clock, VaultError> {
        let latest = self.memory.latest;
        if now < latest {
            self.jumped = None;
            return Ok(Clock { counts: latest, set_back_to: (latest.0 - now.0 > CLOCK_TOLERANCE).then_some(now) });
        }
        if now.0 - latest.0 > DAY {
            let jumped = *self.jumped.get_or_insert(now);
            if now < jumped {
                self.jumped = Some(now);
            }
            if now.0 - jumped.0 < JUMP_HOLDS {
                return Ok(Clock { counts: now, set_back_to: None });
            }
        }
        if now.0 - latest.0 >= CLOCK_EVERY && self.memory_path().exists() {
            // Somebody else has the folder: the next look will do. The node must not wait.
            if let Some(_lock) = try_lock(&self.folder)? {
                self.recall()?;
                self.memory.latest = now.max(self.memory.latest);
                self.remember()?;
                self.jumped = None;
            }
        }
        Ok(Clock { counts: now, set_back_to: None })
    }

    /// The licences in the folder, oldest installation first, and the files that hold none.
    pub fn licences(&self, licensing: &Licensing) -> Result<Held, VaultError> {
        let mut held = Held::default();
        for file in self.files()? {
            let read = fs::read_to_string(&file);
            let decoded = read.map_err(|_| Rejection::NotALicence("the file cannot be read"));
            match decoded.and_then(|text| decode(&text, licensing)) {
                Ok((licence, _)) => held.good.push(Installed { licence, file }),
                Err(rejection) => held.bad.push((file, rejection)),
            }
        }
        Ok(held)
    }

    fn files(&self) -> Result<Vec<PathBuf>, VaultError> {
        let failed = |error| VaultError::Files { path: self.folder.clone(), error };
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "jws") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// What these licences allow at this moment.
    pub fn standing(&self, licences: &[Licence], licensing: &Licensing, at: Wall) -> Standing {
        let terms = Terms {
            licences,
            token: &self.token,
            standby: licensing.standby,
            grace_days: licensing.grace_days,
            platform: licensing.platform_channels,
            installed: self.memory.installed,
            trial_days: TRIAL_DAYS,
        };
        Standing::at(&terms, at)
    }

    /// Installs a pasted licence, or says what that would do.
    pub fn install(&mut self, pasted: &str, config: &Config, now: Wall, is_dry: bool) -> Result<Done, VaultError> {
        let _lock = lock(&self.folder)?;
        self.recall()?;
        // For the record, whether its signature is good or not.
        let code = peek(pasted).map(|licence| licence.code).unwrap_or_default();
        let result = self.try_install(pasted, config, now, is_dry);
        if !is_dry {
            self.record(now, "installed", &code, &result)?;
        }
        result
    }

    fn try_install(&mut self, pasted: &str, config: &Config, now: Wall, is_dry: bool) -> Result<Done, VaultError> {
        let (licence, text) = decode(pasted, &config.licensing)?;
        let at = self.memory.latest.max(now);
        let before: Vec<Licence> =
            self.licences(&config.licensing)?.good.into_iter().map(|held| held.licence).collect();
        if before.iter().any(|held| (&held.code, &held.issuer) == (&licence.code, &licence.issuer)) {
            return Err(Rejection::Duplicate(licence.code).into());
        }
        if before.len() >= LICENCES_MAX {
            return Err(Rejection::TooMany(LICENCES_MAX).into());
        }
        if licence.kind == Kind::Trial
            && let Some(used) = self.memory.trials.first()
        {
            return Err(Rejection::TrialUsed(used.clone()).into());
        }
        let mut after = before.clone();
        after.push(licence.clone());
        let will_be = self.standing(&after, &config.licensing, at);
        // A line of another licence may have the same code; what counts is what became of ours, which came last.
        let ours = licence.lines().len();
        match will_be.rows.iter().rev().take(ours).map(|row| &row.state).next() {
            Some(State::WrongServer(theirs)) => {
                return Err(Rejection::WrongServer { theirs: theirs.clone(), ours: self.token.clone() }.into());
            }
            Some(State::Expired(at)) => return Err(Rejection::Expired(*at).into()),
            Some(State::Revoked(by)) => return Err(Rejection::Revoked(by.clone()).into()),
            Some(State::Replaced(by)) => return Err(Rejection::Replaced(by.clone()).into()),
            _ => {}
        }
        if let Some(theirs) = licence.server.clone().filter(|server| *server != self.token) {
            return Err(Rejection::WrongServer { theirs, ours: self.token.clone() }.into());
        }
        let changes = self.judge(&before, &after, config, at)?;
        if !is_dry {
            let numbers = self.files()?.into_iter().filter_map(|file| file.file_stem()?.to_str()?.parse::<u32>().ok());
            let number = numbers.max().unwrap_or(0);
            if licence.kind == Kind::Trial {
                self.memory.trials.push(licence.code.clone());
                self.remember()?;
            }
            write(&self.folder.join(format!("{:06}.jws", number + 1)), &(text + "\n"))?;
        }
        Ok(Done { licence, changes })
    }

    /// Removes a licence, or says what that would do.
    pub fn remove(&mut self, code: &str, config: &Config, now: Wall, is_dry: bool) -> Result<Done, VaultError> {
        let _lock = lock(&self.folder)?;
        self.recall()?;
        let result = self.try_remove(code, config, now, is_dry);
        if !is_dry {
            self.record(now, "removed", code, &result)?;
        }
        result
    }

    fn try_remove(&self, code: &str, config: &Config, now: Wall, is_dry: bool) -> Result<Done, VaultError> {
        let held = self.licences(&config.licensing)?.good;
        let Some(gone) = held.iter().find(|held| held.licence.code == code).cloned() else {
            return Err(Rejection::Unknown(code.to_owned()).into());
        };
        let before: Vec<Licence> = held.iter().map(|held| held.licence.clone()).collect();
        let after: Vec<Licence> =
            held.into_iter().filter(|held| held.file != gone.file).map(|held| held.licence).collect();
        let changes = self.judge(&before, &after, config, self.memory.latest.max(now))?;
        if !is_dry {
            fs::remove_file(&gone.file).map_err(|error| VaultError::Files { path: gone.file.clone(), error })?;
        }
        Ok(Done { licence: gone.licence, changes })
    }

    /// What would change; an error when that leaves less than is configured, now or at any later moment that differs.
    fn judge(
        &self,
        before: &[Licence],
        after: &[Licence],
        config: &Config,
        at: Wall,
    ) -> Result<Vec<Change>, VaultError> {
        let wanted = config.settings().wanted;
        let mut moment = Some(at);
        // A licence that begins later may take something away later: every moment of the calendar is looked at.
        for _ in 0..MOMENTS_MAX {
            let Some(at) = moment else { break };
            let (was, is) = (self.standing(before, &config.licensing, at), self.standing(after, &config.licensing, at));
            let obstacles = wanted.obstacles(&was, &is);
            if !obstacles.is_empty() {
                return Err(Rejection::TooLittle(obstacles).into());
            }
            moment = is.next;
        }
        let standing = |licences: &[Licence]| self.standing(licences, &config.licensing, at);
        Ok(wanted.changes(&standing(before), &standing(after)))
    }

    fn record(&self, now: Wall, action: &str, code: &str, result: &Result<Done, VaultError>) -> Result<(), VaultError> {
        let (action, why) = match result {
            Ok(done) => {
                let changes: Vec<String> = done
                    .changes
                    .iter()
                    .map(|change| format!("{}: {} before, {} now", change.what, change.before, change.after))
                    .collect();
                (action, changes.join("; "))
            }
            // A slip of the pen, not a licence.
            Err(VaultError::Rejected(Rejection::Unknown(_))) => return Ok(()),
            Err(VaultError::Rejected(rejection)) => ("refused", format!("{}: {rejection}", rejection.label())),
            // Nothing was decided.
            Err(_) => return Ok(()),
        };
        // A history without a memory is one that was lost.
        if !self.memory_path().exists() {
            self.remember()?;
        }
        let record = Record { at: now, action: action.into(), code: code.into(), why };
        let path = self.history_path();
        let line = serde_json::to_string(&record).expect("strings and a number") + "\n";
        let written = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).and_then(|mut file| {
            give_to_owner(&path);
            file.write_all(line.as_bytes())?;
            file.sync_data()
        });
        written.map_err(|error| VaultError::Files { path, error })
    }

    /// The history from the octet at `from` on, and where it ends.
    pub fn history(&self, from: u64) -> Result<(Vec<Record>, u64), VaultError> {
        let text = read(&self.history_path())?.unwrap_or_default();
        let end = text.len() as u64;
        // A line that is not ours is not worth failing for: the history is for people.
        let records = text
            .get(usize::try_from(from).unwrap_or(usize::MAX)..)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok((records.collect(), end))
    }

    /// How long the history is, in octets: it grows with everything done to the licences.
    pub fn history_len(&self) -> u64 {
        fs::metadata(self.history_path()).map_or(0, |meta| meta.len())
    }

    fn history_path(&self) -> PathBuf {
        self.folder.join(HISTORY)
    }

    fn recall(&mut self) -> Result<(), VaultError> {
        let path = self.folder.join("state.json");
        let Some(text) = read(&path)? else { return Ok(()) };
        let memory: Memory = serde_json::from_str(&text).map_err(|error| VaultError::Damaged {
            path,
            what: format!("cannot be read ({error}); restore it from a backup"),
        })?;
        self.memory = Memory { latest: memory.latest.max(self.memory.latest), ..memory };
        Ok(())
    }

    fn remember(&self) -> Result<(), VaultError> {
        write(&self.folder.join("state.json"), &json(&self.memory))
    }
}

fn json(memory: &Memory) -> String {
    serde_json::to_string_pretty(memory).expect("strings and numbers") + "\n"
}

/// For us alone: nobody else can keep the lock, or read the key.
fn make_folder(data_dir: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(data_dir)?;
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    give_to_owner(folder);
    Ok(())
}

/// What root makes belongs to whoever owns the folder it is in, or the node could not read it.
fn give_to_owner(path: &Path) {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    if let (Ok(owner), Ok(own)) = (fs::metadata(folder), fs::metadata(path))
        && owner.uid() != own.uid()
    {
        // Only root may; anybody else made it in a folder that is open to both.
        drop(std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())));
    }
}

fn open_lock(folder: &Path) -> Result<(PathBuf, File), VaultError> {
    let path = folder.join("lock");
    match OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path) {
        Ok(file) => {
            give_to_owner(&path);
            Ok((path, file))
        }
        Err(error) => Err(VaultError::Files { path, error }),
    }
}

/// One process at a time changes the folder; the lock goes with the file.
fn lock(folder: &Path) -> Result<File, VaultError> {
    let (path, file) = open_lock(folder)?;
    match file.lock() {
        Ok(()) => Ok(file),
        Err(error) => Err(VaultError::Files { path, error }),
    }
}

/// The same, when it can be had at once.
fn try_lock(folder: &Path) -> Result<Option<File>, VaultError> {
    let (path, file) = open_lock(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(VaultError::Files { path, error }),
    }
}

fn read(path: &Path) -> Result<Option<String>, VaultError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(VaultError::Files { path: path.to_owned(), error }),
    }
}

/// Writes a file whole or not at all, readable for us alone.
fn write(path: &Path, text: &str) -> Result<(), VaultError> {
    let new = path.with_extension("new");
    let written =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            give_to_owner(&new);
            fs::rename(&new, path)
        });
    written.map_err(|error| VaultError::Files { path: path.to_owned(), error })
}
