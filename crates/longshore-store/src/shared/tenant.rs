//! Tenants that are declared, and how each stands in a fleet.

use longshore_core::id::FleetName;
use longshore_core::tenant::Tenant;
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, count_option, get, int};
use super::fault::DbError;
use super::sql::args;
use crate::error::StoreError;
use crate::model::TenantCounts;
use crate::signals::{Topic, Wakes};

/// One declaration at a time.
const LOCK: &str = "LOCK TABLE @tenant IN SHARE ROW EXCLUSIVE MODE";
const CLEAR: &str = "DELETE FROM @tenant";
const PUT: &str = "INSERT INTO @tenant (name, weight, max_running)
     SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])";
const ALL: &str = "SELECT name, weight, max_running FROM @tenant ORDER BY name";
const FLEETS: &str = "SELECT name FROM @fleet";

/// The default tenant is what a fleet has beyond its lanes.
const COUNTS: &str = "WITH lanes AS (SELECT * FROM @lane WHERE fleet = $1), all_counts AS (
        SELECT tenant, runnable, delayed, held, running, waiting, succeeded, failed, cancelled FROM lanes
        UNION ALL SELECT 'default', sum(runnable), sum(delayed), sum(held), sum(running), sum(waiting), sum(succeeded),
            sum(failed), sum(cancelled)
        FROM (SELECT runnable, delayed, held, running, waiting, succeeded, failed, cancelled
                FROM @fleet_count WHERE fleet = $1
            UNION ALL SELECT -runnable, -delayed, -held, -running, -waiting, -succeeded, -failed, -cancelled
                FROM lanes) AS beyond
        HAVING sum(runnable) > 0 OR sum(delayed) > 0 OR sum(held) > 0 OR sum(running) > 0 OR sum(waiting) > 0
            OR sum(succeeded) > 0 OR sum(failed) > 0 OR sum(cancelled) > 0)
     SELECT tenant, runnable::bigint, delayed::bigint, held::bigint, running::bigint, waiting::bigint, succeeded::bigint,
        failed::bigint, cancelled::bigint
     FROM all_counts ORDER BY runnable + running DESC, tenant LIMIT $2";

impl Shared {
    pub(crate) async fn put_tenants(&self, tenants: Vec<Tenant>) -> Result<(), StoreError> {
        let core = self.core();
        let names: Vec<&str> = tenants.iter().map(|it| it.name.as_str()).collect();
        let weights: Vec<i64> = tenants.iter().map(|it| i64::from(it.weight)).collect();
        let caps: Vec<Option<i64>> = tenants.iter().map(|it| it.max_running.map(i64::from)).collect();
        let fleets = core.run(async |it| {
            it.begin().await?;
            it.execute(LOCK, args![]).await?;
            it.execute(CLEAR, args![]).await?;
            it.execute(PUT, args![names, weights, caps]).await?;
            let fleets = it.query(FLEETS, args![]).await?;
            it.commit().await?;
            fleets.iter().map(|row| get(row, 0)).collect::<Result<Vec<FleetName>, _>>()
        });
        // Under other caps others may start.
        core.fire(Wakes::from(fleets.await?.into_iter().map(Topic::Runnable)));
        Ok(())
    }

    pub(crate) async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        let rows = self.core().run(async |it| it.query(ALL, args![]).await).await?;
        let tenant = |row: &Row| {
            Ok::<_, DbError>(Tenant {
                name: get(row, 0)?,
                weight: count(row, 1)?,
                max_running: count_option(row, 2)?,
            })
        };
        Ok(rows.iter().map(tenant).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn tenant_counts(
        &self,
        fleet: FleetName,
        limit: usize,
    ) -> Result<Vec<TenantCounts>, StoreError> {
        let args = args![fleet.as_str(), int(limit as u64)];
        let rows = self.core().run(async |it| it.query(COUNTS, args).await).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }
}

fn read(row: &Row) -> Result<TenantCounts, DbError> {
    Ok(TenantCounts {
        tenant: get(row, 0)?,
        ready: count(row, 1)?,
        delayed: count(row, 2)?,
        held: count(row, 3)?,
        running: count(row, 4)?,
        waiting: count(row, 5)?,
        succeeded: count(row, 6)?,
        failed: count(row, 7)?,
        cancelled: count(row, 8)?,
    })
}
