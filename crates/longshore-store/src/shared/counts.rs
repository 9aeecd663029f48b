//! Counts per fleet, kept in the transactions that move tasks.

use std::collections::BTreeMap;

use longshore_core::id::FleetName;

use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;
pub(super) use crate::embedded::{PLACES, Place};

/// How many rows each fleet's counts are spread over.
pub(super) const SLOTS: i16 = 16;

/// By how much the counts of each fleet change; in order of names, so that two transactions never wait crosswise.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<FleetName, [i64; PLACES]>);

pub(super) const SAVE: &str = "INSERT INTO @fleet_count AS c (fleet, slot, runnable, delayed, held, running, waiting,
        succeeded, failed, cancelled)
     SELECT fleet, $2, a, b, d, e, f, g, h, i
     FROM unnest($1::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[]) AS n (fleet, a, b, d, e, f, g, h, i)
     ON CONFLICT (fleet, slot) DO UPDATE SET runnable = c.runnable + excluded.runnable,
        delayed = c.delayed + excluded.delayed, held = c.held + excluded.held, running = c.running + excluded.running,
        waiting = c.waiting + excluded.waiting, succeeded = c.succeeded + excluded.succeeded,
        failed = c.failed + excluded.failed, cancelled = c.cancelled + excluded.cancelled";

impl Counts {
    pub(super) fn add(&mut self, fleet: &FleetName, place: Place, by: i64) {
        if !self.0.contains_key(fleet) {
            self.0.insert(fleet.clone(), [0; PLACES]);
        }
        if let Some(counts) = self.0.get_mut(fleet) {
            counts[place as usize] += by;
        }
    }

    pub(super) async fn save(&self, connection: &Connection, slot: i16) -> Result<(), DbError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.0.keys().map(FleetName::as_str).collect();
        let of = |place: usize| self.0.values().map(|counts| counts[place]).collect::<Vec<i64>>();
        let runnable: Vec<i64> = of(0).iter().zip(of(1)).map(|(plain, suspects)| plain + suspects).collect();
        connection
            .execute(SAVE, args![names, slot, runnable, of(2), of(3), of(4), of(5), of(6), of(7), of(8)])
            .await
            .map(drop)
    }
}
