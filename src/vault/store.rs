//! The folder: installing, removing, reading again, and the latest time seen.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::document::{KeyFile, decode};
use crate::config::{Config, Licensing};
use crate::licence::{Change, Kind, Licence, Rejection, Standing, State, Terms, Wall};

/// Licences installed at a time.
const LICENCES_MAX: usize = 1000;
/// Days of full function after the installation (seed 000).
const TRIAL_DAYS: u32 = 30;
/// A clock set back by no more than this is not worth a word: time services do it.
const CLOCK_TOLERANCE: i64 = 15 * 60;
/// How often the latest time seen is written down, in seconds.
const CLOCK_EVERY: i64 = 60;

/// Why a command on the licences fails.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The licence is at fault.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The files are.
    #[error("{}: {error}; sipweir keeps its licences there and must be able to read and write it", .path.display())]
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
}

impl Vault {
    /// Opens the folder below `node.data_dir`, making what is missing.
    pub fn open(config: &Config, now: Wall) -> Result<Self, VaultError> {
        let data_dir = config.data_dir.as_deref().ok_or(VaultError::NoDataDir)?;
        let folder = Path::new(data_dir).join("licences");
        fs::create_dir_all(&folder).map_err(|error| VaultError::Files { path: folder.clone(), error })?;
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
            None => {
                let memory = Memory { installed: now, latest: now, trials: Vec::new() };
                write(&memory_path, &json(&memory))?;
                memory
            }
        };
        Ok(Self { folder, token: key.token(), memory })
    }

    /// This server's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What the clock says. The latest time seen is written down once a minute.
    pub fn clock(&mut self, now: Wall) -> Result<Clock, VaultError> {
        let latest = self.memory.latest;
        if now >= latest {
            if now.0 - latest.0 >= CLOCK_EVERY {
                let _lock = lock(&self.folder)?;
                self.recall()?;
                self.memory.latest = now.max(self.memory.latest);
                self.remember()?;
            }
            return Ok(Clock { counts: now, set_back_to: None });
        }
        Ok(Clock { counts: latest, set_back_to: (latest.0 - now.0 > CLOCK_TOLERANCE).then_some(now) })
    }

    /// The licences in the folder, oldest installation first, and the files that hold none.
    pub fn licences(&self, licensing: &Licensing) -> Result<Held, VaultError> {
        let mut held = Held::default();
        for file in self.files()? {
            let Some(text) = read(&file)? else { continue };
            match decode(&text, licensing) {
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
        let code = decode(pasted, &config.licensing).map(|(licence, _)| licence.code).unwrap_or_default();
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
            let number = self.files()?.last().and_then(|file| file.file_stem()?.to_str()?.parse().ok()).unwrap_or(0u32);
            write(&self.folder.join(format!("{:06}.jws", number + 1)), &(text + "\n"))?;
            if licence.kind == Kind::Trial {
                self.memory.trials.push(licence.code.clone());
                self.remember()?;
            }
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
        for _ in 0..LICENCES_MAX {
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
            Err(VaultError::Rejected(rejection)) => ("refused", format!("{}: {rejection}", rejection.label())),
            // Nothing was decided.
            Err(_) => return Ok(()),
        };
        let record = Record { at: now, action: action.into(), code: code.into(), why };
        let path = self.history_path();
        let line = serde_json::to_string(&record).expect("strings and a number") + "\n";
        let written = OpenOptions::new().create(true).append(true).open(&path).and_then(|mut file| {
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
        self.folder.join("history.jsonl")
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

/// One process at a time changes the folder; the lock goes with the file.
fn lock(folder: &Path) -> Result<File, VaultError> {
    let path = folder.join("lock");
    let locked = OpenOptions::new().create(true).truncate(false).write(true).open(&path).and_then(|file| {
        file.lock()?;
        Ok(file)
    });
    locked.map_err(|error| VaultError::Files { path, error })
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
    use std::os::unix::fs::OpenOptionsExt as _;
    let new = path.with_extension("new");
    let written =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            fs::rename(&new, path)
        });
    written.map_err(|error| VaultError::Files { path: path.to_owned(), error })
}
