//! What every backend does. A new one is added by one more line of the macro.

mod batches;
mod cache;
mod caps;
mod children;
mod claims;
mod conversations;
mod crowd;
mod deadlines;
mod endings;
mod fleets;
mod journal;
mod kept;
mod keys;
mod link;
mod questions;
mod retention;
mod rollouts;
mod schedules;
mod search;
mod tasks;
mod tenants;
mod webhooks;

macro_rules! every_backend {
    ($($module:ident: $($behaviour:ident),* $(,)?;)*) => {
        mod embedded {
            $(mod $module {
                $(#[tokio::test]
                async fn $behaviour() {
                    let world = crate::support::World::embedded().await;
                    crate::conformance::$module::$behaviour(&world).await;
                })*
            })*
        }

        mod shared {
            $(mod $module {
                $(#[tokio::test]
                async fn $behaviour() {
                    let Some(world) = crate::support::World::shared().await else { return };
                    crate::conformance::$module::$behaviour(&world).await;
                    world.clean_up().await;
                })*
            })*
        }
    };
}

/// What is about one file on one disk.
mod embedded_only {
    use crate::support::World;

    #[tokio::test]
    async fn commands_share_commits() {
        super::crowd::commands_share_commits(&World::embedded().await).await;
    }

    /// To the millisecond: with Redis it is Redis' clock that counts, which no test turns.
    #[tokio::test]
    async fn what_was_put_is_there_until_its_time() {
        super::cache::what_was_put_is_there_until_its_time(&World::embedded().await).await;
    }

    #[tokio::test]
    async fn what_changes_nothing_commits_nothing() {
        super::crowd::what_changes_nothing_commits_nothing(&World::embedded().await).await;
    }
}

every_backend! {
    tasks: a_task_is_stored_as_it_was_submitted, an_unknown_or_inactive_fleet_takes_no_task_of_the_batch,
        a_repeated_key_makes_nothing_new, keys_are_forgotten_some_at_a_time_and_all_in_the_end,
        a_key_with_another_request_is_refused, lists_go_from_new_to_old_in_pages, filters_choose, counts_follow_every_move, events_are_numbered_and_resumable,
        a_scheduled_task_waits_for_its_time, a_task_with_huge_numbers_is_stored;
    claims: higher_priority_first_then_order_of_submission, a_repeated_claim_gets_the_same_leases,
        a_claim_that_is_repeated_at_once_gets_the_same_leases, an_older_claim_is_refused, an_empty_claim_uses_up_no_number, fences_only_grow,
        strangers_and_stale_starts_get_nothing, a_draining_worker_gets_nothing, a_suspect_runs_alone,
        the_least_busy_worker_runs_dry_for_a_suspect, a_claim_of_large_inputs_ends_early;
    link: what_is_not_held_is_queued_again, what_is_on_its_way_is_not_taken, lost_leases_are_told,
        only_the_renewed_live_on, a_claim_that_nobody_heard_of_expires_beside_what_is_renewed,
        outages_do_not_expire_leases, a_new_start_releases_what_the_old_one_held,
        a_drain_order_is_repeated_until_it_is_obeyed, waiters_are_woken, a_late_goodbye_does_not_end_the_next_start,
        a_gone_worker_can_register_again, a_planned_worker_is_found_again,
        a_worker_that_came_before_its_plan_becomes_one_of_it;
    endings: success_is_final_and_repeatable, a_stale_fence_changes_nothing, failures_back_off_then_fail,
        interruptions_cost_nothing, three_crashes_alone_are_poison, progress_is_no_strike,
        cancelling_a_queued_task_ends_it, cancelling_a_running_task_tells_its_worker,
        a_result_that_was_there_beats_a_cancellation, repeated_events_change_nothing,
        another_workers_fence_is_refused, the_same_workers_older_fence_is_refused,
        an_agent_says_when_to_try_again, poison_is_found_by_its_code;
    conversations: tasks_run_one_by_one_in_order, only_the_succeeding_attempts_words_are_published,
        cancelling_the_head_moves_on, cancelling_in_the_middle_keeps_the_head, a_retry_keeps_its_place,
        a_scheduled_head_holds_the_others, history_is_cut_to_the_newest, a_task_that_would_have_to_wait_is_refused,
        a_newcomer_stops_all_before_it, a_newcomer_gets_its_turn_from_a_lost_worker;
    tenants: a_tenant_is_stored_and_found, ten_times_as_many_tasks_get_no_more_turns, weights_are_shares,
        priorities_order_a_tenants_tasks_but_not_tenants, who_was_away_has_saved_no_turns_up,
        a_suspect_of_one_tenant_does_not_stop_another, each_tenant_is_counted_by_itself,
        what_is_counted_and_claimed_at_once_is_exact;
    caps: a_fleet_runs_no_more_than_it_may, a_tenants_cap_in_a_fleet_leaves_the_others_alone,
        a_tenants_own_cap_holds_over_all_fleets, no_more_start_than_the_rate_lets,
        a_paused_fleet_starts_nothing_and_finishes_what_runs, every_unfinished_task_is_counted_in_one_number;
    deadlines: what_waits_fails_when_its_deadline_passes, what_runs_is_stopped_and_fails,
        a_result_that_was_there_beats_a_deadline, no_attempt_follows_a_deadline,
        a_lost_workers_task_fails_at_its_deadline;
    fleets: changes_that_workers_must_know_restart_them, a_fleet_that_is_left_out_takes_no_tasks,
        decisions_are_kept_newest_first_up_to_a_limit, load_knows_the_oldest_wait, replicas_are_set_and_given_back,
        small_things_are_kept, ended_workers_are_forgotten;
    journal: an_interrupted_task_gets_its_answers_again, a_failed_task_asks_anew_for_the_last_answer,
        a_growing_history_is_stored_once, another_way_is_told_with_its_first_difference,
        a_stale_fence_and_another_fleet_get_nothing, an_answer_wakes_who_waits_for_it,
        steps_run_once_and_outlive_generations, a_task_that_asks_waits_for_a_person,
        a_task_that_waited_gets_its_answers_again,
        an_answer_that_comes_after_its_task_was_deleted_leaves_nothing;
    children: a_child_that_misses_its_deadline_wakes_its_parent, a_newcomer_that_stops_a_child_wakes_its_parent,
        a_parent_waits_without_a_worker_until_all_have_ended, any_child_or_a_named_one_wakes_its_parent,
        a_wait_for_what_is_there_ends_at_once, what_is_not_there_cannot_be_waited_for,
        a_wait_with_a_time_out_ends_with_it, an_attempt_that_runs_again_finds_its_children,
        a_childs_result_and_failure_are_shown, a_cancelled_parent_takes_its_children_along,
        a_cancelled_attempt_that_waits_ends_its_task, children_are_all_submitted_or_none,
        too_deep_too_many_and_an_ancestors_conversation_are_refused, a_waiting_head_keeps_its_conversation;
    questions: a_question_waits_for_its_answer_without_a_worker, an_answer_in_time_counts_and_a_late_one_does_not,
        a_question_is_asked_once_and_may_be_answered_before_it_is_waited_for,
        an_interruption_and_a_question_are_told_apart, questions_have_a_limit;
    cache: what_was_put_goes_by_itself, what_is_deleted_is_gone, a_full_cache_drops_what_expires_soonest;
    kept: what_an_unfinished_parent_or_child_needs_is_kept, a_parent_is_kept_while_a_child_goes_on,
        children_and_tenants_are_found;
    keys: a_key_is_found_by_its_hash_alone, a_revoked_key_stays_revoked, the_last_use_only_moves_on,
        tasks_and_conversations_have_owners, what_begins_at_once_agrees, an_erased_tenants_keys_go_with_it;
    crowd: no_task_is_claimed_twice;
    rollouts: a_change_that_nobody_runs_is_switched_to, a_change_with_workers_is_rolled_out,
        a_plan_is_written_by_whoever_read_the_newest, a_newer_declaration_overtakes_and_the_old_one_goes_back,
        what_failed_is_not_tried_again_by_itself, of_two_deploys_at_once_one_is_refused,
        a_name_that_stands_for_another_image_is_another_release,
        undoing_goes_back_to_what_ran_before, attempts_are_counted_for_the_release_that_they_ran_on,
        a_task_that_goes_back_to_an_older_release_asks_anew, a_pinned_task_finishes_on_the_release_it_began_on;
    batches: a_batch_counts_its_tasks_and_ends_with_the_last,
        the_end_of_a_batch_is_told_once_whatever_is_repeated,
        a_batch_that_is_open_does_not_end_before_it_is_closed, cancelling_a_batch_ends_it_in_steps,
        an_open_batch_whose_tasks_have_ended_ends_when_it_is_cancelled, a_repeated_key_adds_nothing_to_a_batch,
        batches_are_listed_from_new_to_old, who_waits_for_a_batch_is_woken, a_batch_has_one_tenant;
    retention: journals_go_first_then_results_then_tasks, a_task_without_result_or_journal_is_touched_once,
        the_newest_are_kept_when_there_are_too_many, a_batch_keeps_its_results_until_it_has_ended,
        messages_outlive_their_tasks, keys_of_tasks_that_are_gone_are_forgotten,
        what_ends_while_its_tenant_is_erased_is_erased_too;
    search: batches_and_failures_choose, a_page_looks_at_so_many_tasks_and_no_more, times_choose,
        a_cancellation_for_some_states_leaves_the_others;
    schedules: a_schedule_is_kept_as_it_was_declared_and_begins_now,
        a_tick_becomes_a_task_together_with_the_move_of_the_cursor, only_the_first_of_many_fires_a_tick,
        one_tick_is_one_task_even_if_its_cursor_comes_back, what_is_not_accepted_leaves_the_cursor_where_it_was,
        a_tick_finds_its_conversation_busy, losses_are_counted_and_told, another_rhythm_begins_anew_and_another_input_does_not,
        ticks_of_a_pause_are_not_made_up_for, a_run_by_hand_moves_no_cursor_and_is_repeatable,
        the_newest_events_of_a_schedule_are_kept, whoever_waits_for_schedules_is_woken;
    webhooks: each_way_to_end_is_told_to_whom_it_concerns, a_retry_within_a_task_is_no_end,
        what_is_due_comes_in_order_of_time,
        a_delivered_or_given_up_message_is_not_sent_again_unless_somebody_asks,
        a_receiver_that_is_gone_is_owed_nothing_until_it_is_back, what_a_removed_webhook_was_owed_waits_for_it,
        old_deliveries_are_forgotten_and_pending_ones_are_not, whoever_waits_for_messages_is_woken,
        a_message_is_held_by_whoever_leads, an_erased_tenants_messages_go_with_it, whatever_ends_at_once_is_told_once;
}

/// What speaks to the database in each of the ways that there are, where each transaction gets another connection.
macro_rules! behind_a_pooler {
    ($($module:ident: $($behaviour:ident),* $(,)?;)*) => {
        mod pooled {
            $(mod $module {
                $(#[tokio::test]
                async fn $behaviour() {
                    let Some(world) = crate::support::World::pooled().await else { return };
                    crate::conformance::$module::$behaviour(&world).await;
                    world.clean_up().await;
                })*
            })*
        }
    };
}

behind_a_pooler! {
    tasks: a_repeated_key_makes_nothing_new, filters_choose, a_scheduled_task_waits_for_its_time;
    claims: a_repeated_claim_gets_the_same_leases, the_least_busy_worker_runs_dry_for_a_suspect;
    link: what_is_not_held_is_queued_again, a_new_start_releases_what_the_old_one_held;
    endings: failures_back_off_then_fail, repeated_events_change_nothing, cancelling_a_queued_task_ends_it;
    conversations: only_the_succeeding_attempts_words_are_published, a_scheduled_head_holds_the_others;
    fleets: changes_that_workers_must_know_restart_them, decisions_are_kept_newest_first_up_to_a_limit;
    journal: a_failed_task_asks_anew_for_the_last_answer, a_growing_history_is_stored_once,
        another_way_is_told_with_its_first_difference, steps_run_once_and_outlive_generations;
    batches: a_batch_that_is_open_does_not_end_before_it_is_closed, cancelling_a_batch_ends_it_in_steps;
    children: a_parent_waits_without_a_worker_until_all_have_ended, an_attempt_that_runs_again_finds_its_children,
        a_cancelled_parent_takes_its_children_along, a_newcomer_that_stops_a_child_wakes_its_parent;
    questions: a_question_waits_for_its_answer_without_a_worker, an_answer_in_time_counts_and_a_late_one_does_not;
    retention: journals_go_first_then_results_then_tasks, messages_outlive_their_tasks;
    schedules: only_the_first_of_many_fires_a_tick, what_is_not_accepted_leaves_the_cursor_where_it_was,
        a_run_by_hand_moves_no_cursor_and_is_repeatable, ticks_of_a_pause_are_not_made_up_for,
        a_tick_finds_its_conversation_busy;
    webhooks: each_way_to_end_is_told_to_whom_it_concerns, a_receiver_that_is_gone_is_owed_nothing_until_it_is_back,
        a_message_is_held_by_whoever_leads, an_erased_tenants_messages_go_with_it;
    rollouts: a_change_with_workers_is_rolled_out, a_plan_is_written_by_whoever_read_the_newest,
        of_two_deploys_at_once_one_is_refused,
        a_name_that_stands_for_another_image_is_another_release, attempts_are_counted_for_the_release_that_they_ran_on,
        a_task_that_goes_back_to_an_older_release_asks_anew, a_pinned_task_finishes_on_the_release_it_began_on;
    crowd: no_task_is_claimed_twice;
}
