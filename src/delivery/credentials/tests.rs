use std::{io::Read, os::unix::net::UnixStream as Blocking, thread::JoinHandle};

use super::*;

/// systemd's end, which reads to the end, slowly if it is told to, and the daemon's.
fn pair(pause: Duration) -> (JoinHandle<Vec<u8>>, Asked) {
    let (mut systemd, ours) = Blocking::pair().unwrap();
    systemd.shutdown(std::net::Shutdown::Write).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    ours.set_nonblocking(true).unwrap();
    let reads = std::thread::spawn(move || {
        let (mut all, mut some) = (Vec::new(), vec![0; 16 * 1024]);
        loop {
            std::thread::sleep(pause);
            match systemd.read(&mut some).unwrap() {
                0 => return all,
                read => all.extend_from_slice(&some[..read]),
            }
        }
    });
    (reads, Asked::new(UnixStream::from_std(ours).unwrap()))
}

fn held(value: &[u8]) -> Arc<Held> {
    super::super::frame::tests::handout(value).held
}

fn makes_it_fail(all: &[u8]) -> bool {
    all.len() >= TOO_MUCH
}

#[tokio::test]
async fn a_value_arrives_whole_however_slowly_it_is_read() {
    let value: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
    for pause in [Duration::ZERO, Duration::from_millis(2)] {
        let (reads, asked) = pair(pause);
        tell(asked, Ok(Ok((held(&value), ())))).await;
        assert!(reads.join().unwrap() == value);
    }
}

#[tokio::test]
async fn what_is_not_an_answer_makes_the_unit_fail() {
    let refused = || Refusal::Caller(NotSystemd::Address);
    type Decided = std::thread::Result<Result<(Arc<Held>, ()), Refusal>>;
    let nothing: Vec<Decided> = vec![Ok(Err(refused())), Err(Box::new("a panic")), Ok(Ok((held(b""), ())))];
    for decided in nothing {
        let (reads, asked) = pair(Duration::ZERO);
        tell(asked, decided).await;
        assert!(makes_it_fail(&reads.join().unwrap()));
    }
}

#[tokio::test]
async fn a_connection_that_is_dropped_makes_the_unit_fail() {
    let (reads, asked) = pair(Duration::ZERO);
    drop(asked);
    assert!(makes_it_fail(&reads.join().unwrap()));

    // In a panic, as the task goes.
    let (reads, asked) = pair(Duration::ZERO);
    let task = tokio::spawn(async move {
        let _asked = asked;
        panic!("as it would be for a fault of ours");
    });
    assert!(task.await.unwrap_err().is_panic());
    assert!(makes_it_fail(&reads.join().unwrap()));

    // In the middle of a value: what came of it does not count.
    let (reads, asked) = pair(Duration::ZERO);
    let sent = asked.send(|stream| send(stream, b"the beginning of a value", SendFlags::NOSIGNAL)).await.unwrap();
    drop(asked);
    let all = reads.join().unwrap();
    assert!(all.starts_with(b"the beginning of a value") && makes_it_fail(&all[sent..]));
}
