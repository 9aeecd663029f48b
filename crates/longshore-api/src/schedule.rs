//! Schedules on the public API, `/v1/schedules`.

use longshore_core::id::{FleetName, TaskId};
use longshore_core::json::Json;
use longshore_core::schedule::{Missed, Overlap, ScheduleName};
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A schedule: what was declared, and how it stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Schedule {
    #[schema(value_type = String)]
    pub name: ScheduleName,
    #[schema(value_type = String)]
    pub fleet: FleetName,
    /// Minute, hour, day of month, month, day of week.
    #[schema(example = "30 2 * * mon-fri")]
    pub cron: String,
    #[schema(example = "Europe/Berlin")]
    pub timezone: String,
    /// What becomes of ticks that nobody was there for: `skip`, `once`, `all`.
    #[schema(value_type = String)]
    pub missed: Missed,
    /// What becomes of a tick while a task of an earlier one has not ended: `allow`, `skip`.
    #[schema(value_type = String)]
    pub overlap: Overlap,
    /// False when it is no longer declared.
    pub active: bool,
    pub paused: bool,
    /// The next ticks; none while it is paused. A list shows one, a single schedule more.
    pub next: Vec<Tick>,
    /// Its newest task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub last_task: Option<TaskId>,
    /// The tick of that task; absent when somebody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_tick: Option<Timestamp>,
    pub ticks: TickCounts,
    /// What its tasks get besides the fleet's defaults; lists leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub input: Option<Json>,
    /// What happened lately, newest first; lists leave it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<ScheduleEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tick {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// As the schedule's clocks show it, with offset and zone.
    pub local: String,
}

/// Ticks since the schedule was first declared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TickCounts {
    /// Became a task.
    pub fired: u64,
    /// Nobody was there in time, and they were not made up for.
    pub missed: u64,
    /// An earlier task had not ended.
    pub overlapped: u64,
    /// The task was not accepted, such as when its fleet is not declared.
    pub refused: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleEvent {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `fired`, `missed`, `overlapped`, `refused`, `run`, `paused`, `resumed`, `changed`; more may come.
    pub kind: String,
    #[schema(value_type = Value)]
    pub data: Json,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleList {
    pub items: Vec<Schedule>,
}
