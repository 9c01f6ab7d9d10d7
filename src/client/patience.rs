//! Waiting as long as the daemon says, where it says that waiting helps and the caller has the time.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

use super::Error;

/// How long to wait before the same is asked for again. `None`: waiting does not help, or not within the caller's time, who then hears
/// at once what it was refused.
pub fn patience(error: &Error, deadline: Instant) -> Option<Duration> {
    let (Error::Limited { retry_after: Some(wait), .. }
    | Error::NotOnRecord { retry_after: Some(wait), .. }
    | Error::ApprovalPending { retry_after: Some(wait), .. }) = error
    else {
        return None;
    };
    let wait = jittered(*wait);
    (Instant::now() + wait < deadline).then_some(wait)
}

/// Up to a quarter more, and 20 ms: those who were refused together must not come back together.
pub fn jittered(wait: Duration) -> Duration {
    // Each state has keys of its own, of which the system's random numbers are the start.
    let random = RandomState::new().hash_one(0_u8);
    let share = (random >> 40) as f64 / (1_u64 << 24) as f64;
    wait + (wait / 4 + Duration::from_millis(20)).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(retry_after: Option<Duration>) -> Error {
        Error::Limited { message: String::new(), limit: "per-minute".into(), retry_after }
    }

    #[test]
    fn it_waits_only_where_that_helps_and_there_is_time() {
        let deadline = Instant::now() + Duration::from_secs(10);
        let wait = patience(&limited(Some(Duration::from_secs(4))), deadline).unwrap();
        assert!((4000..=5020).contains(&wait.as_millis()), "{wait:?}");
        assert_eq!(patience(&limited(Some(Duration::from_secs(11))), deadline), None);
        assert_eq!(patience(&limited(None), deadline), None);
        let not_on_record = Error::NotOnRecord { message: String::new(), retry_after: Some(Duration::from_secs(1)) };
        assert!(patience(&not_on_record, deadline).is_some());
        assert_eq!(patience(&Error::Ended(String::new()), deadline), None);
    }

    #[test]
    fn no_two_wait_alike() {
        let waits: std::collections::BTreeSet<_> = (0..100).map(|_| jittered(Duration::from_secs(1))).collect();
        assert!(waits.len() > 90, "{}", waits.len());
        let spread = *waits.last().unwrap() - *waits.first().unwrap();
        assert!(spread > Duration::from_millis(150), "{spread:?}");
    }
}
