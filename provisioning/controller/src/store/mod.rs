//! The database: one writer that commits in groups, and readers beside it.
//!
//! - Writing: jobs queue up at one thread, which runs what has gathered in one transaction, each in its own savepoint,
//!   commits once (one fsync), and only then answers. So an answer means: on disk. A job that fails takes nothing of
//!   the others with it.
//! - Reading: a few connections of their own; WAL gives each a whole state.

pub mod assignments;
pub mod certs;
pub mod enrolments;
pub mod nodes;
pub mod plans;
pub mod refusals;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cairn_bundle::durable::{self, FileError};
use rusqlite::{Connection, OpenFlags};

/// Jobs waiting for the writer; more wait at their own end. At 30 us each this is a few milliseconds of work.
const QUEUE: usize = 256;
/// Jobs in one commit, so that the first does not wait for ever.
const GROUP: usize = 128;
/// Connections for reading; on a busy machine more only wait for the disk.
const READERS: usize = 4;
/// Another process (`cairn-controller operator`) may hold the write lock this long.
const BUSY: Duration = Duration::from_secs(10);

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite.
    #[error("the database failed: {0}; look for a full or read-only disk")]
    Sqlite(#[from] rusqlite::Error),
    /// It is newer than this program.
    #[error(
        "{path} has schema {found}, this program knows {known}: it was written by a newer cairn-controller"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A row that this program wrote cannot be read.
    #[error("the database holds a {what} that cannot be read: {why}")]
    Damaged {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// There is none, or nothing in it: all nodes would be forgotten.
    #[error(
        "{0} is missing or empty: restore it from backup, or make a new controller in another folder \
         (cairn-controller init)"
    )]
    Missing(PathBuf),
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// The writer has ended.
    #[error("the database is closed: the controller is stopping")]
    Closed,
}

/// The result of database work.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Reads a value that was stored as JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| StoreError::Damaged { what, why: e.to_string() })
}

/// Writes a value as JSON.
pub(crate) fn to_json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::Damaged { what, why: e.to_string() })
}

/// Reads a name that was stored.
pub(crate) fn name(text: &str) -> Result<cairn_protocol::ids::Name> {
    cairn_protocol::ids::Name::new(text).map_err(|e| StoreError::Damaged { what: "name", why: e.to_string() })
}

/// SQLite's integers are signed; times and counters of ours stay far below.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The other way.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Called with the open transaction, or with nothing when there is none to be had; answers what is to be called with
/// whether the commit went through.
type Work = Box<dyn FnOnce(Option<&Connection>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(bool) + Send>;

/// The database of a running controller. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Mutex<Option<SyncSender<Work>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Mutex<Vec<Connection>>,
    permits: tokio::sync::Semaphore,
    path: PathBuf,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a commit is on disk when it returns, also after a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

impl Store {
    /// Makes a new, empty database at `path` (0600).
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn create(path: &Path) -> Result<()> {
        // SQLite gives -wal and -shm the mode of the database itself.
        durable::write_mode(path, b"", 0o600)?;
        schema::migrate(&mut connect(path)?, path)
    }

    /// Opens the database at `path`, bringing its schema up to date first.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Missing`] where [`Self::create`] has made none.
    pub fn open(path: &Path) -> Result<Self> {
        if std::fs::metadata(path).is_ok_and(|meta| meta.len() == 0) || !path.exists() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let mut connection = connect(path)?;
        if schema::version(&connection)? == 0 {
            return Err(StoreError::Missing(path.to_owned()));
        }
        schema::migrate(&mut connection, path)?;
        let readers = (0..READERS).map(|_| connect(path)).collect::<Result<Vec<_>>>()?;
        let (queue, jobs) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_loop(&mut connection, &jobs))
            .map_err(FileError::at("start the writer of", path))?;
        Ok(Self {
            inner: Arc::new(Inner {
                queue: Mutex::new(Some(queue)),
                writer: Mutex::new(Some(writer)),
                readers: Mutex::new(readers),
                permits: tokio::sync::Semaphore::new(READERS),
                path: path.to_owned(),
            }),
        })
    }

    fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        answer: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Result<()> {
        let queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let job: Work = Box::new(move |tx| {
            let result = tx.map_or_else(|| Err(commit_failed()), |tx| in_savepoint(tx, work));
            Box::new(move |committed| {
                answer(if committed { result } else { result.and(Err(commit_failed())) });
            })
        });
        queue.ok_or(StoreError::Closed)?.send(job).map_err(|_| StoreError::Closed)
    }

    /// Runs `work` in a transaction; when this answers `Ok`, it is on disk.
    ///
    /// # Errors
    /// Those of `work`, which then has changed nothing, and [`StoreError`].
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let store = self.clone();
        // The queue may be full; waiting for it must not hold up the runtime.
        tokio::task::spawn_blocking(move || store.submit(work, move |result| drop(sender.send(result))))
            .await
            .map_err(|_| StoreError::Closed)??;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// As [`Self::write`], for callers outside the runtime.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = sync_channel(1);
        self.submit(work, move |result| drop(sender.send(result)))?;
        receiver.recv().map_err(|_| StoreError::Closed)?
    }

    /// Runs `work` on a connection for reading.
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError`].
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _permit = self.inner.permits.acquire().await.map_err(|_| StoreError::Closed)?;
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || {
            let taken = inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = taken.ok_or(StoreError::Closed)?;
            let result = in_savepoint(&connection, work);
            inner.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }

    /// Finishes what is queued and closes the writer.
    pub fn close(&self) {
        drop(self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

fn commit_failed() -> StoreError {
    StoreError::Sqlite(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR),
        Some("the commit failed, nothing was stored".to_owned()),
    ))
}

/// Runs `work` whole or not at all. A panic in it is a failure of its own, not of the writer.
fn in_savepoint<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    connection.execute_batch("SAVEPOINT job")?;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(connection)));
    let result = outcome.unwrap_or_else(|_| {
        Err(StoreError::Damaged { what: "request", why: "its handling panicked; see the log".to_owned() })
    });
    match result {
        Ok(value) => connection.execute_batch("RELEASE job").map(|()| value).map_err(Into::into),
        Err(error) => {
            connection.execute_batch("ROLLBACK TO job; RELEASE job")?;
            Err(error)
        }
    }
}

fn write_loop(connection: &mut Connection, jobs: &Receiver<Work>) {
    while let Ok(first) = jobs.recv() {
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let transaction = begun.is_ok().then_some(&*connection);
        let mut answers = vec![first(transaction)];
        while answers.len() < GROUP
            && let Ok(job) = jobs.try_recv()
        {
            answers.push(job(transaction));
        }
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
        if let Err(error) = &committed {
            tracing::error!(%error, jobs = answers.len(), "a commit failed");
            let _ = connection.execute_batch("ROLLBACK");
        }
        for answer in answers {
            answer(committed.is_ok());
        }
    }
    // Leaves one file behind, with nothing in the log.
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_fails_or_panics_takes_nothing_with_it() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.db");
        Store::create(&path).unwrap();
        let store = Store::open(&path).unwrap();
        let insert = |value: &'static str| {
            move |tx: &Connection| {
                tx.execute("INSERT INTO sites (site, yaml, plan, updated) VALUES (?1, '', '', 0)", [value])?;
                Ok(())
            }
        };
        store.write(insert("a")).await.unwrap();
        let failed: Result<()> = store
            .write(move |tx| {
                insert("b")(tx)?;
                Err(StoreError::Closed)
            })
            .await;
        assert!(failed.is_err());
        let panicked: Result<()> = store
            .write(move |tx| {
                insert("c")(tx)?;
                panic!("a bug")
            })
            .await;
        assert!(panicked.is_err());
        store.write(insert("d")).await.unwrap();
        let count =
            |tx: &Connection| Ok(tx.query_row("SELECT group_concat(site) FROM sites", [], |r| r.get(0))?);
        assert_eq!(store.read::<String>(count).await.unwrap(), "a,d");
        store.close();
        assert!(matches!(store.write(insert("e")).await, Err(StoreError::Closed)));
    }

    #[test]
    fn a_newer_database_is_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.db");
        Store::create(&path).unwrap();
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 1000).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 1000, .. })));
    }

    #[test]
    fn a_database_is_made_only_when_asked() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.db");
        assert!(matches!(Store::open(&path), Err(StoreError::Missing(_))));
        assert!(!path.exists());
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Missing(_))));
        // SQLite's own idea of an empty database, with a header and nothing of ours.
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x); DROP TABLE t").unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Missing(_))));
        Store::create(&path).unwrap();
        drop(Store::open(&path).unwrap());
    }
}
