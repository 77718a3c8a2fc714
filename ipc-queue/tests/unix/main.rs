//! The `unix` transport keeps every promise of `ipc_queue::transport`. Promises that are harder to
//! keep over a queue in shared memory are also tested over one. Real processes test what happens
//! when clients and servers are killed.
#![cfg(target_os = "linux")]

mod deaths;
mod subject;

mod over_local {
    use ipc_queue::LocalQueue;

    use crate::subject::{Local, Served};

    ipc_queue::conformance_tests!(Served::<Local>::new());

    #[test]
    fn a_served_queue_has_the_capabilities_of_its_origin() {
        use ipc_queue::transport::{OpenRequest, Transport};
        use ipc_queue::{Feature, Support};
        let subject = Served::<Local>::new();
        let name = ipc_queue::Name::new("capable").unwrap();
        let served =
            ipc_queue::conformance::Subject::open(&subject, &name, &OpenRequest::default());
        let (served, behind) = (
            served.unwrap().capabilities(),
            LocalQueue::open(&name, &OpenRequest::default())
                .unwrap()
                .capabilities(),
        );
        for feature in Feature::ALL {
            let expected = match feature {
                Feature::ZeroCopy => Support::Unsupported,
                Feature::DeathNoticed | Feature::Batches => Support::Native,
                other => behind.support(other),
            };
            assert_eq!(served.support(feature), expected, "{feature}");
        }
        assert!(LocalQueue::remove(&name));
    }
}

/// The promises for which it matters that the queue regards the server, which works for all
/// clients, as one process.
mod over_shm {
    use ipc_queue::conformance::{hold, promises};

    use crate::subject::{Served, Shm};

    const PROMISES: [&str; 25] = [
        "every_message_goes_to_exactly_one_receiver_at_a_time",
        "first_deliveries_keep_each_senders_order",
        "payloads_of_every_size_arrive_intact",
        "all_openers_of_a_name_get_the_same_queue",
        "a_killed_receivers_message_is_redelivered",
        "leases_can_be_listed",
        "a_dropped_delivery_is_a_nack",
        "a_message_past_its_attempt_limit_is_a_dead_letter",
        "a_dead_letter_can_be_requeued_or_discarded",
        "an_expired_lease_is_lost_and_its_message_redelivered",
        "a_batch_is_sent_and_received_in_order",
        "urgent_messages_go_first_and_others_do_not_starve",
        "a_key_is_sent_once_while_it_is_remembered",
        "a_key_outlives_its_message",
        "a_forgotten_key_can_be_sent_again",
        "a_loan_holds_a_place_until_it_is_published_or_dropped",
        "an_async_receiver_continues_when_a_message_arrives",
        "a_saved_queue_is_restored_completely",
        "a_closed_queue_refuses_messages_and_drains",
        "a_removed_queue_wakes_and_refuses_all_callers",
        "a_nack_is_delayed_by_the_queues_backoff",
        "expired_leases_have_a_separate_limit",
        "headers_travel_with_their_message",
        "a_reason_is_kept_in_the_dead_letter",
        "a_snooze_does_not_count_as_an_attempt",
    ];

    #[test]
    fn promises_hold() {
        let chosen = PROMISES.map(|name| {
            let mut all = promises().into_iter();
            all.find(|(promise, _)| *promise == name).expect(name)
        });
        for (_, promise) in chosen {
            hold(Served::<Shm>::new(), promise);
        }
    }
}

/// Not a test: the conformance suite starts it as another process.
#[test]
fn holder() {
    subject::holder();
}

/// Not a test, unless this binary was started as another test's process.
#[test]
fn role() {
    deaths::role();
}
