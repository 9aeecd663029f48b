//! Tenants that are declared, and how each stands in a fleet.

use longshore_core::id::FleetName;
use longshore_core::tenant::Tenant;
use rusqlite::params;

use super::Embedded;
use super::column::{count, get, int};
use crate::error::StoreError;
use crate::model::TenantCounts;

impl Embedded {
    pub(crate) async fn put_tenants(&self, tenants: Vec<Tenant>) -> Result<(), StoreError> {
        self.write(move |write| {
            write.connection.execute("DELETE FROM tenant", [])?;
            for tenant in &tenants {
                write
                    .connection
                    .prepare_cached("INSERT INTO tenant (name, weight, max_running) VALUES (?1, ?2, ?3)")?
                    .execute(params![tenant.name.as_str(), tenant.weight, tenant.max_running])?;
            }
            write.caps_changed()?;
            let fleets: Vec<FleetName> = {
                let mut select = write.connection.prepare("SELECT name FROM fleet")?;
                let fleets = select.query_map([], |row| get(row, 0))?;
                fleets.collect::<Result<_, _>>()?
            };
            // Under other caps others may start.
            fleets.iter().for_each(|fleet| write.wake_fleet(fleet));
            Ok(())
        })
        .await
    }

    pub(crate) async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.read(|connection| {
            let mut select =
                connection.prepare_cached("SELECT name, weight, max_running FROM tenant ORDER BY name")?;
            let rows = select.query_map([], |row| {
                Ok(Tenant { name: get(row, 0)?, weight: row.get(1)?, max_running: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn tenant_counts(
        &self,
        fleet: FleetName,
        limit: usize,
    ) -> Result<Vec<TenantCounts>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT tenant, runnable, delayed, held, running, waiting, succeeded, failed, cancelled FROM lane
                 WHERE fleet = ?1 ORDER BY runnable + running DESC, tenant LIMIT ?2",
            )?;
            let rows = select.query_map(params![fleet.as_str(), int(limit as u64)], |row| {
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
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}
