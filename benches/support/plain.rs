//! What a team would write in an afternoon: an account row, a reservation row, and two SQL functions under `select … for
//! update`. Narrower than the product on purpose: no events, no payload, no idempotency, no chain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

const SECONDS: u64 = 4;
const ACCOUNTS: usize = 100;

const SCHEMA: &str = "
    create schema plain;
    create table plain.accounts (id integer primary key, available bigint not null, held bigint not null)
        with (fillfactor = 50);
    create table plain.reservations (
        id uuid primary key, account integer not null, credits bigint not null, status text not null
    );
    insert into plain.accounts select n, 9000000000000000, 0 from generate_series(0, 99) as n;

    create function plain.reserve(of_account integer, reservation uuid, asked bigint) returns boolean
    language plpgsql as $$
    begin
        perform from plain.accounts where id = of_account and available >= asked for update;
        if not found then return false; end if;
        update plain.accounts set available = available - asked, held = held + asked where id = of_account;
        insert into plain.reservations values (reservation, of_account, asked, 'held');
        return true;
    end $$;

    create function plain.settle(reservation uuid, cost bigint) returns boolean
    language plpgsql as $$
    declare hold plain.reservations;
    begin
        select * into hold from plain.reservations where id = reservation and status = 'held' for update;
        if not found then return false; end if;
        update plain.accounts set available = available + hold.credits - cost, held = held - hold.credits
        where id = hold.account;
        update plain.reservations set status = 'settled' where id = reservation;
        return true;
    end $$;
";

/// Pairs a second at the best number of clients, all of one account, or half of them.
pub async fn best(url: &str) -> [(usize, f64); 2] {
    let pool = PgPoolOptions::new().max_connections(64).connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(SCHEMA.to_owned())).execute(&pool).await.unwrap();
    let mut best = [(0, 0.0); 2];
    for (place, accounts) in [1, ACCOUNTS].into_iter().enumerate() {
        for clients in [1, 16, 64] {
            let pairs = measure(&pool, clients, accounts).await;
            if pairs > best[place].1 {
                best[place] = (clients, pairs);
            }
        }
    }
    best
}

async fn measure(pool: &PgPool, clients: usize, accounts: usize) -> f64 {
    let pairs = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> =
        (0..clients).map(|_| tokio::spawn(call(pool.clone(), accounts, started, pairs.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    pairs.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

async fn call(pool: PgPool, accounts: usize, started: Instant, pairs: Arc<AtomicU64>) {
    let mut connection = pool.acquire().await.unwrap();
    while started.elapsed() < Duration::from_secs(SECONDS) {
        let account = if rand::random() { 0 } else { rand::random_range(..accounts) as i32 };
        let id = Uuid::from_bytes(rand::random());
        let reserved: bool = sqlx::query_scalar("select plain.reserve($1, $2, 5000000)")
            .bind(account)
            .bind(id)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        let settled: bool = sqlx::query_scalar("select plain.settle($1, 1234567)")
            .bind(id)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert!(reserved && settled);
        pairs.fetch_add(1, Ordering::Relaxed);
    }
}
