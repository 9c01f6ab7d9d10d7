//! Rounds, medians, and the table.

use std::time::Duration;

use tokio::runtime::Runtime;

use super::{
    load::{Load, Measured, Shape},
    peer::{HttpLoad, Peer},
};

/// One side of a comparison.
pub enum Side {
    Grpc(Load),
    Http(HttpLoad),
}

impl Side {
    async fn run(&self, window: Duration) -> Measured {
        match self {
            Self::Grpc(load) => load.run(window).await,
            Self::Http(load) => load.run(window).await,
        }
    }
}

/// What the rounds came to.
pub struct Row {
    shape: Shape,
    count: usize,
    ours: Measured,
    floor: Measured,
    /// Rate against the floor's, and p99 against the floor's.
    ratio: f64,
    p99_ratio: f64,
    peer: Option<(usize, Measured, f64)>,
}

pub fn compare(
    runtime: &Runtime,
    shape: Shape,
    count: usize,
    [ours, floor]: [Side; 2],
    peer: Option<Side>,
    rounds: usize,
    window: Duration,
) -> Row {
    let mut all: [Vec<Measured>; 3] = Default::default();
    for round in 0..rounds {
        // Which side comes first alternates, so that neither always follows the other.
        let mut order: Vec<(usize, &Side)> = vec![(0, &ours), (1, &floor)];
        order.extend(peer.as_ref().map(|peer| (2, peer)));
        if round % 2 == 1 {
            order.reverse();
        }
        for (at, side) in order {
            all[at].push(tokio::task::LocalSet::new().block_on(runtime, side.run(window)));
        }
    }
    let [ours, floor, peers] = all;
    let ratios = |of: &dyn Fn(&Measured) -> f64, against: &[Measured]| {
        median(ours.iter().zip(against).map(|(a, b)| of(a) / of(b)).collect())
    };
    let ratio = ratios(&|m| m.per_second, &floor);
    let p99_ratio = ratios(&|m| m.p99.as_secs_f64(), &floor);
    let peer = peer.map(|side| {
        let Side::Http(load) = side else { unreachable!("the peer speaks HTTP") };
        (load.count, middle(&peers), ratios(&|m| m.per_second, &peers))
    });
    Row { shape, count, ours: middle(&ours), floor: middle(&floor), ratio, p99_ratio, peer }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn middle(rounds: &[Measured]) -> Measured {
    let of = |value: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(value).collect());
    Measured {
        per_second: of(&|m| m.per_second),
        p50: Duration::from_secs_f64(of(&|m| m.p50.as_secs_f64())),
        p99: Duration::from_secs_f64(of(&|m| m.p99.as_secs_f64())),
    }
}

pub fn print_rows(rows: &[Row], peer: Result<&Peer, String>) {
    println!(
        "| form, sessions | hand-outs/s | p50 / p99 us | bare echo/s | p50 / p99 us | rate to floor | p99 to floor | peer reads/s (connections) | rate to peer |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let micros = |m: &Measured| format!("{:.0} / {:.0}", m.p50.as_secs_f64() * 1e6, m.p99.as_secs_f64() * 1e6);
    for row in rows {
        let form = row.shape.name();
        let (peers, to_peer) = match &row.peer {
            Some((connections, measured, ratio)) => {
                (format!("{:.0} ({connections})", measured.per_second), format!("{ratio:.2}"))
            }
            None => ("-".into(), "-".into()),
        };
        println!(
            "| {form}, {} | {:.0} | {} | {:.0} | {} | {:.2} | {:.2} | {peers} | {to_peer} |",
            row.count,
            row.ours.per_second,
            micros(&row.ours),
            row.floor.per_second,
            micros(&row.floor),
            row.ratio,
            row.p99_ratio
        );
    }
    if let Err(why) = peer {
        println!("\nthe peer was not measured: {why}");
    }
}
