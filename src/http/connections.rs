//! The open connections of a listener. New connections get places, connections that only wait for their clients can be
//! evicted, and overdue connections are ended.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::activity::{AboveLimit, Activity, Ending, Rest};
use crate::monitor::ServerRecorder;

/// Time for a connection above the limit to send its first head. It is short, because other connections need the place.
const ABOVE_LIMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a client to read a whole response, in multiples of `ConnectionTimeouts::write`.
const WRITE_TIMEOUTS_PER_ANSWER: u32 = 4;

/// Maximum number of connections that were told to end but still have their file descriptors.
pub(super) const MAX_LEAVING: usize = 16;

/// The states in which connections can be evicted, in the order of eviction. `New` comes after `Waiting`, so that
/// clients that do not finish their bodies cannot push out new connections.
const RESTS: [Rest; 3] = [Rest::Idle, Rest::Waiting, Rest::New];

/// Maximum numbers of open connections of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Number of connections that serve all requests.
    pub regular: NonZeroUsize,
    /// Number of additional connections for health and metrics, which are used while every regular connection is busy.
    pub spare: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionTimeouts {
    /// Time for a client to send the head of a connection's first request.
    pub first_request: Duration,
    /// Time for a client to send the head of the next request after a response.
    pub idle: Duration,
    /// Time for a client to read any part of a response.
    pub write: Duration,
}

/// The open connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    places: Places,
    timeouts: ConnectionTimeouts,
    recorder: Arc<ServerRecorder>,
    epoch: Instant,
    open: Mutex<Open>,
    /// Notified when a connection has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Open {
    all: HashMap<u64, Entry>,
    next: u64,
    /// Number of connections in each kind of place, without the connections that were told to end.
    taken: [usize; 2],
    /// Candidates for eviction from the last full search, by kind of place and by state: the connections that had been
    /// in the state the longest, in order, each with the time at which it entered the state.
    resting: [[VecDeque<(u64, u64)>; RESTS.len()]; 2],
    /// The connections that were told to end and may not have ended yet.
    leaving: Vec<u64>,
}

#[derive(Debug)]
struct Entry {
    activity: Arc<Activity>,
    place: Place,
    is_leaving: bool,
}

/// Kind of place of a connection: regular, or spare for health and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Regular,
    Spare,
}

/// An open connection. Its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    connections: Arc<Connections>,
    id: u64,
    pub(super) activity: Arc<Activity>,
    pub(super) above_limit: Option<AboveLimit>,
}

/// Facts about a connection that decide if it is overdue.
#[derive(Debug, Clone, Copy)]
struct Seen {
    is_answering: bool,
    is_writing: bool,
    has_asked: bool,
    place: Place,
    /// Time since the connection's acceptance, last response or last piece of a body: the shortest of them.
    ago: Duration,
}

impl ConnectionTimeouts {
    /// Returns an interval of checks that enforces these timeouts closely enough.
    pub(super) fn precision(&self) -> Duration {
        let least = self.first_request.min(self.idle).min(ABOVE_LIMIT_TIMEOUT);
        (least / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// Returns true if a connection has exceeded one of these timeouts. Requests in flight are limited by the budget of
    /// their model instead.
    fn is_overdue(&self, seen: Seen) -> bool {
        let limit = match seen {
            Seen { is_answering: true, .. } => return false,
            // Limits the whole response, even if the client keeps reading a little.
            Seen { is_writing: true, .. } => self.write.saturating_mul(WRITE_TIMEOUTS_PER_ANSWER),
            Seen { has_asked: true, .. } => self.idle,
            Seen { place: Place::Regular, .. } => self.first_request.min(self.idle),
            Seen { place: Place::Spare, .. } => self.first_request.min(self.idle).min(ABOVE_LIMIT_TIMEOUT),
        };
        seen.ago > limit
    }
}

// ===== impl Connections =====

impl Connections {
    pub(super) fn new(places: Places, timeouts: ConnectionTimeouts, recorder: Arc<ServerRecorder>) -> Connections {
        let (open, ended) = (Mutex::default(), Notify::new());
        Connections { places, timeouts, recorder, epoch: Instant::now(), open, ended }
    }

    /// Waits until a place is free, or a connection can be evicted from its place.
    pub(super) async fn has_room(&self) {
        loop {
            // Created before the check, so that no notification is missed.
            let ended = self.ended.notified();
            if self.open.lock().room(self.places).is_some() {
                return;
            }
            // A connection may also become evictable, which sends no notification.
            let _ = tokio::time::timeout(Duration::from_millis(100), ended).await;
        }
    }

    /// Takes a place for an accepted connection, as soon as a place is free or can be freed.
    pub(super) async fn place(self: &Arc<Connections>) -> OpenConnection {
        loop {
            match self.open() {
                Some(open) => return open,
                None => self.has_room().await,
            }
        }
    }

    /// Takes a place for an accepted connection, and evicts another connection if necessary. `None` if no place is free
    /// or can be freed.
    pub(super) fn open(self: &Arc<Connections>) -> Option<OpenConnection> {
        let mut open = self.open.lock();
        let place = match open.room(self.places)? {
            Room::Free(place) => place,
            Room::Held(place, id) => {
                open.leave(id, Ending::Evicted);
                place
            }
        };
        let activity = Arc::new(Activity::new(self.epoch, self.places.regular));
        let id = open.next;
        open.next += 1;
        open.taken[place as usize] += 1;
        open.all.insert(id, Entry { activity: Arc::clone(&activity), place, is_leaving: false });
        self.recorder.connection_opened();
        let above_limit = (place == Place::Spare).then_some(AboveLimit { limit: self.places.regular });
        Some(OpenConnection { connections: Arc::clone(self), id, activity, above_limit })
    }

    /// Evicts a connection to free a file descriptor: the one that has been idle the longest, or, if no connection is
    /// idle, the one that has waited the longest.
    pub(super) fn evict_one(&self) {
        let mut open = self.open.lock();
        let places = [Place::Regular, Place::Spare];
        let mut all = RESTS.into_iter().flat_map(|rest| places.map(|place| (place, rest)));
        if let Some(id) = all.find_map(|(place, rest)| open.longest(place, rest)) {
            open.leave(id, Ending::Evicted);
        }
    }

    /// Ends the overdue connections.
    pub(super) fn end_overdue(&self) {
        let now = self.epoch.elapsed();
        let mut open = self.open.lock();
        let is_overdue = |entry: &Entry| {
            let activity = &entry.activity;
            // Read first: if a request starts meanwhile, the other fields show it, and the connection is not overdue.
            let ago = now.saturating_sub(Duration::from_millis(activity.since()));
            self.timeouts.is_overdue(Seen {
                is_answering: activity.is_answering(),
                is_writing: activity.is_writing(),
                has_asked: activity.has_asked(),
                place: entry.place,
                ago,
            })
        };
        let overdue: Vec<u64> =
            open.all.iter().filter(|(_, entry)| !entry.is_leaving && is_overdue(entry)).map(|(&id, _)| id).collect();
        overdue.into_iter().for_each(|id| open.leave(id, Ending::Overdue));
    }

    /// Tells all connections to end after the requests that were sent, because the listener closes.
    pub(super) fn drain(&self) {
        self.open.lock().all.values().for_each(|entry| entry.activity.end(Ending::Drained));
    }

    /// Waits until all connections have ended.
    pub(super) async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.open.lock().all.is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// Place that a new connection can take.
enum Room {
    Free(Place),
    /// Kind of the place, and id of the connection that has it and can be evicted.
    Held(Place, u64),
}

impl Open {
    fn room(&mut self, places: Places) -> Option<Room> {
        // A connection that received a request after it was told to end no longer counts as leaving: it may finish the
        // request.
        let Open { all, leaving, .. } = self;
        leaving.retain(|id| all.get(id).is_some_and(|entry| !entry.activity.is_busy()));
        if leaving.len() >= MAX_LEAVING {
            return None;
        }
        for (place, limit) in [(Place::Regular, places.regular.get()), (Place::Spare, places.spare)] {
            if self.taken[place as usize] < limit {
                return Some(Room::Free(place));
            }
            // Requests that wait for their clients are evicted, too: they may wait forever, and no work is lost.
            if let Some(id) = RESTS.into_iter().find_map(|rest| self.longest(place, rest)) {
                return Some(Room::Held(place, id));
            }
        }
        None
    }

    /// Returns the connection in this kind of place that has been in this state the longest.
    fn longest(&mut self, place: Place, rest: Rest) -> Option<u64> {
        let Open { all, resting, taken, .. } = self;
        let resting = &mut resting[place as usize][rest as usize];
        let is_resting = |entry: &Entry| !entry.is_leaving && entry.activity.rest() == Some(rest);
        for is_fresh in [false, true] {
            // The connections are in the order in which they entered this state, so the front one has been in it the
            // longest.
            while let Some(&(id, since)) = resting.front() {
                let same = |entry: &Entry| is_resting(entry) && entry.activity.since() == since;
                if all.get(&id).is_some_and(same) {
                    return Some(id);
                }
                resting.pop_front();
            }
            if is_fresh {
                break;
            }
            // Finds several connections at once, so that a full search is rare.
            let some = (taken[place as usize] / 16).max(1);
            let mut found: Vec<(u64, u64)> = all
                .iter()
                .filter(|(_, entry)| entry.place == place && is_resting(entry))
                .map(|(&id, entry)| (entry.activity.since(), id))
                .collect();
            if found.len() > some {
                found.select_nth_unstable(some);
                found.truncate(some);
            }
            found.sort_unstable();
            resting.extend(found.into_iter().map(|(since, id)| (id, since)));
        }
        None
    }

    fn leave(&mut self, id: u64, ending: Ending) {
        if let Some(entry) = self.all.get_mut(&id).filter(|entry| !entry.is_leaving) {
            entry.is_leaving = true;
            self.leaving.push(id);
            self.taken[entry.place as usize] -= 1;
            entry.activity.end(ending);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        if let Some(entry) = open.all.remove(&self.id)
            && !entry.is_leaving
        {
            open.taken[entry.place as usize] -= 1;
        }
        drop(open);
        self.connections.recorder.connection_closed();
        self.connections.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(regular: usize, spare: usize) -> Arc<Connections> {
        let second = Duration::from_secs(1);
        let timeouts = ConnectionTimeouts { first_request: second, idle: 8 * second, write: 3 * second };
        let places = Places { regular: NonZeroUsize::new(regular).unwrap(), spare };
        Arc::new(Connections::new(places, timeouts, Arc::default()))
    }

    fn is_told(connection: &OpenConnection) -> bool {
        connection.activity.ending().is_some()
    }

    #[test]
    fn the_one_that_has_been_idle_the_longest_gives_up_its_place() {
        let connections = connections(3, 1);
        let old: Vec<OpenConnection> = (0..3).map(|_| connections.open().unwrap()).collect();
        // The first connection had a request later than the third, and the second has one in flight.
        old[0].activity.set_since(7);
        old[1].activity.set_answering();
        old[2].activity.set_since(5);
        let new = connections.open().unwrap();
        assert!(new.above_limit.is_none());
        assert_eq!(old.iter().map(is_told).collect::<Vec<_>>(), [false, false, true]);
        // The next eviction takes the first connection, which has been idle longer than the new one.
        new.activity.set_since(9);
        let newer = connections.open().unwrap();
        assert!(newer.above_limit.is_none() && is_told(&old[0]) && !is_told(&new));
    }

    #[test]
    fn where_all_are_busy_there_are_spare_places_and_then_none() {
        let connections = connections(2, 1);
        let busy: Vec<OpenConnection> = (0..2).map(|_| connections.open().unwrap()).collect();
        busy.iter().for_each(|connection| connection.activity.set_answering());
        let spare = connections.open().unwrap();
        assert!(spare.above_limit.is_some());
        // A silent spare connection is evicted, too.
        let next = connections.open().unwrap();
        assert!(next.above_limit.is_some() && is_told(&spare));
        next.activity.set_answering();
        assert!(connections.open().is_none());
        drop(busy);
        assert!(connections.open().unwrap().above_limit.is_none());
    }

    #[test]
    fn a_request_that_waits_for_its_client_gives_up_its_place_after_the_idle_ones() {
        let connections = connections(4, 1);
        let old: Vec<OpenConnection> = (0..4).map(|_| connections.open().unwrap()).collect();
        old[..3].iter().for_each(|connection| connection.activity.set_answering());
        // The first connection is busy, the next two wait for their bodies, and the last one is idle.
        for (connection, since) in [(&old[1], 6), (&old[2], 5)] {
            connection.activity.set_waiting(true);
            connection.activity.set_since(since);
        }
        old[3].activity.set_since(7);
        old[3].activity.set_asked();
        for expected in [[false, false, false, true], [false, false, true, true], [false, true, true, true]] {
            let new = connections.open().unwrap();
            assert!(new.above_limit.is_none());
            new.activity.set_answering();
            assert_eq!(old.iter().map(is_told).collect::<Vec<_>>(), expected);
            // Keeps the connection open and busy.
            std::mem::forget(new);
        }
        assert!(connections.open().unwrap().above_limit.is_some());
    }

    #[test]
    fn each_state_has_its_time() {
        let timeouts = connections(1, 1).timeouts;
        let silent = Seen {
            is_answering: false,
            is_writing: false,
            has_asked: false,
            place: Place::Regular,
            ago: Duration::ZERO,
        };
        let check = |seen: Seen, seconds: u64| {
            let at = |ago| timeouts.is_overdue(Seen { ago, ..seen });
            let limit = Duration::from_secs(seconds);
            assert!(!at(limit) && at(limit + Duration::from_millis(1)), "{seen:?}");
        };
        check(silent, 1);
        check(Seen { has_asked: true, ..silent }, 8);
        check(Seen { has_asked: true, is_writing: true, ..silent }, 12);
        let answering = Seen { is_answering: true, ago: Duration::from_secs(3600), ..silent };
        assert!(!timeouts.is_overdue(answering));
    }

    #[test]
    fn thousands_of_newcomers_never_push_out_one_that_is_answered() {
        let connections = connections(64, 4);
        let busy = connections.open().unwrap();
        busy.activity.set_answering();
        let mut open = VecDeque::new();
        for at in 0..5_000 {
            let new = connections.open().unwrap();
            assert!(new.above_limit.is_none());
            new.activity.set_since(at);
            open.push_back(new);
            // Evicted in the order of their acceptance.
            while open.front().is_some_and(is_told) {
                open.pop_front();
            }
            assert!(open.iter().all(|open| !is_told(open)) && open.len() <= 63);
        }
        assert!(!is_told(&busy));
    }
}
