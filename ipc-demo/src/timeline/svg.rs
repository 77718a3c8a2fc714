//! The drawing of a timeline: title and legend, lanes with bars and marks, an axis in seconds.
//!
//! plotters draws the axis and writes the SVG. Everything else is placed here in whole pixels,
//! because its SVG consists of them. Positions are in `scale`, appearance in `pen`.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::pen::*;
use super::scale::{BOTTOM, LEFT, PLOT_WIDTH, RIGHT, Scale, TOP, WIDTH};
use super::{Bar, Kill, Lane, Outcome, Timeline};

pub(super) fn draw(timeline: &Timeline, title: &str) -> Result<String, DrawError> {
    let lanes = timeline.lanes();
    let scale = Scale::new(timeline.end_s(), &lanes);
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, scale.height())).into_drawing_area();
    area.fill(&WHITE)?;
    heading(&area, title)?;
    legend(&area, timeline)?;
    stripes(&area, &scale, lanes.len())?;
    axis(&area, &scale)?;
    for (index, lane) in lanes.iter().enumerate() {
        labels(&area, &scale, index, lane)?;
        bars(&area, &scale, index, lane)?;
        marks(&area, &scale, index, lane)?;
    }
    area.present()?;
    drop(area);
    Ok(svg)
}

fn heading(area: &Area, title: &str) -> Drawn {
    let mut bold = font(24.0, &INK, HPos::Left);
    bold.font = bold.font.style(FontStyle::Bold);
    words(area, (LEFT, 26), &bold, title)
}

fn legend(area: &Area, timeline: &Timeline) -> Drawn {
    let y = 60;
    let swatch = |x, colour| bar(area, [(x, y - 6), (x + 12, y + 6)], colour);
    let (done, lost) = (
        timeline.count(Outcome::Acked),
        timeline.count(Outcome::Lost),
    );
    let (kills, again) = (timeline.kills.len(), timeline.redeliveries.len());
    let entries: [(String, &dyn Fn(i32) -> Drawn); 4] = [
        (format!("tasks done: {done}"), &|x| swatch(x, &ACKED)),
        (format!("tasks lost with their worker: {lost}"), &|x| {
            swatch(x, &LOST)
        }),
        (format!("workers killed: {kills}"), &|x| {
            cross(area, (x + 6, y), 6)
        }),
        (format!("tasks redelivered: {again}"), &|x| {
            arrow(area, (x + 6, y + 6), 6)
        }),
    ];
    let mut x = LEFT;
    for (entry, sign) in entries {
        sign(x)?;
        words(area, (x + 18, y), &font(15.0, &INK, HPos::Left), &entry)?;
        x += 18 + width_of(&entry, 15.0) + 28;
    }
    Ok(())
}

/// A ground under every other lane, to guide the eye.
fn stripes(area: &Area, scale: &Scale, lanes: usize) -> Drawn {
    (0..lanes).step_by(2).try_for_each(|index| {
        let top = scale.lane_top(index);
        bar(
            area,
            [(0, top), (WIDTH as i32, top + scale.lane_height)],
            &STRIPE,
        )
    })
}

/// The seconds below and faint lines above them.
fn axis(area: &Area, scale: &Scale) -> Drawn {
    let decimals = (-(scale.end_s / 10.0).log10()).ceil().clamp(0.0, 9.0) as usize;
    let mut chart = ChartBuilder::on(area)
        .margin_top(TOP)
        .margin_left(LEFT)
        .margin_right(RIGHT)
        .set_label_area_size(LabelAreaPosition::Bottom, BOTTOM)
        .build_cartesian_2d(0.0..scale.end_s, 0.0..1.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(12)
        .x_max_light_lines(1)
        .bold_line_style(GRID)
        .axis_style(FAINT)
        .x_label_style(font(15.0, &INK, HPos::Center))
        .axis_desc_style(font(15.0, &FAINT, HPos::Center))
        .x_label_formatter(&|at_s| format!("{at_s:.decimals$}"))
        .x_desc("seconds")
        .draw()
}

/// The worker's name, and its totals.
fn labels(area: &Area, scale: &Scale, index: usize, lane: &Lane) -> Drawn {
    let size = if scale.is_roomy() { 16.0 } else { 13.0 };
    let y = scale.bar_middle(index);
    let (name, right) = (font(size, &INK, HPos::Right), LEFT + PLOT_WIDTH);
    words(area, (LEFT - 12, y), &name, &shortened(lane.worker, 18))?;
    let tally = match (lane.count(Outcome::Acked), lane.count(Outcome::Lost)) {
        (done, 0) => format!("{done} done"),
        (done, lost) => format!("{done} done, {lost} lost"),
    };
    words(
        area,
        (right + 12, y),
        &font(size.min(14.0), &FAINT, HPos::Left),
        &tally,
    )
}

fn bars(area: &Area, scale: &Scale, index: usize, lane: &Lane) -> Drawn {
    let half_pixel_s = scale.seconds_per_pixel() / 2.0;
    // Without gaps all touching bars look like one, unless rounding separates them.
    let thin_s = if scale.has_gaps {
        half_pixel_s
    } else {
        f64::INFINITY
    };
    let mut bars = lane.bars(half_pixel_s, thin_s);
    // Lost tasks last: they may be narrow, and must not disappear under their neighbours.
    bars.sort_by_key(|task| task.outcome == Outcome::Lost);
    bars.iter()
        .try_for_each(|task| task_bar(area, scale, index, task))
}

fn task_bar(area: &Area, scale: &Scale, index: usize, task: &Bar) -> Drawn {
    let (colour, min_width) = match task.outcome {
        Outcome::Acked => (&ACKED, 1),
        Outcome::Lost => (&LOST, 3),
    };
    let (left, end) = (scale.x(task.start_s), scale.x(task.end_s));
    // One pixel is left free, so that two successive tasks look like two.
    let right = (end - i32::from(scale.has_gaps)).max(left + min_width);
    let (top, bottom) = (scale.bar_top(index), scale.bar_bottom(index));
    bar(area, [(left, top), (right, bottom)], colour)?;

    let name = task
        .what
        .and_then(|what| what.rsplit('/').next())
        .unwrap_or_default();
    if !scale.has_names || name.is_empty() || width_of(name, 13.0) + 8 > right - left {
        return Ok(());
    }
    let middle = ((left + right) / 2, scale.bar_middle(index));
    words(area, middle, &font(13.0, &WHITE, HPos::Center), name)
}

fn marks(area: &Area, scale: &Scale, index: usize, lane: &Lane) -> Drawn {
    let radius = scale.mark_radius();
    for redelivery in &lane.redeliveries {
        let tip = (scale.x(redelivery.at_s), scale.bar_top(index) - 1);
        arrow(area, tip, radius)?;
    }
    for kill in &lane.kills {
        let center = (scale.x(kill.at_s), scale.bar_middle(index));
        cross(area, center, radius)?;
    }
    if scale.is_roomy() {
        pids(area, scale, index, &lane.kills)
    } else {
        Ok(())
    }
}

/// The process ids above the crosses, as far as they do not overlap.
fn pids(area: &Area, scale: &Scale, index: usize, kills: &[&Kill]) -> Drawn {
    let y = scale.lane_top(index).midpoint(scale.bar_top(index));
    let mut kills = kills.to_vec();
    kills.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    let mut free_from = 0;
    for kill in kills {
        let (x, pid) = (scale.x(kill.at_s), format!("pid {}", kill.pid));
        if x >= free_from {
            words(area, (x, y), &font(13.0, &INK, HPos::Center), &pid)?;
            free_from = x + width_of(&pid, 13.0) + 8;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::task;
    use super::super::{Redelivery, TaskSpan};
    use super::*;

    #[test]
    fn every_event_is_drawn_with_its_sign_and_counted_in_the_legend() {
        let svg = run(100).to_svg("A run").unwrap();
        for words in [
            "A run",
            "tasks done: 99",
            "worker: 1",
            "killed: 1",
            "redelivered: 1",
            "pid 4242",
        ] {
            assert!(svg.contains(words), "{words} in {svg}");
        }
        // The legend contains one more of each.
        assert_eq!(svg.matches(&fill(ACKED)).count(), 99 + 1);
        assert_eq!(svg.matches(&fill(LOST)).count(), 1 + 1);
        assert_eq!(svg.matches("<polygon").count(), 1 + 1);
    }

    #[test]
    fn ten_thousand_tasks_make_a_small_picture_that_still_shows_the_lost_one() {
        let svg = run(10_000).to_svg("A long run").unwrap();
        assert!(svg.len() < 20_000, "{} bytes", svg.len());
        assert_eq!(svg.matches(&fill(LOST)).count(), 1 + 1);
    }

    #[test]
    fn a_task_of_no_length_is_visible() {
        let mut timeline = Timeline::default();
        timeline.add_task(task("w", 1.0, 1.0, Outcome::Lost));
        let svg = timeline.to_svg("").unwrap();
        assert!(svg.contains(" width=\"3\""), "{svg}");
    }

    #[test]
    fn a_lost_task_is_drawn_over_its_neighbours() {
        let svg = run(100).to_svg("").unwrap();
        let lane = &svg[svg.find("worker-2").unwrap()..svg.find("worker-3").unwrap()];
        assert!(lane.find(&fill(LOST)) > lane.rfind(&fill(ACKED)), "{lane}");
    }

    #[test]
    fn tasks_that_touch_have_a_gap_between_them_or_are_one_bar() {
        let acked = |svg: &str| svg.matches(&fill(ACKED)).count() - 1;
        let few = in_a_row(2).to_svg("").unwrap();
        let one_second = (f64::from(PLOT_WIDTH) / (2.0 * 1.02)).round() as i32;
        assert_eq!(acked(&few), 2);
        assert!(
            few.contains(&format!(" width=\"{}\"", one_second - 1)),
            "{few}"
        );
        assert_eq!(acked(&in_a_row(400).to_svg("").unwrap()), 1);
    }

    #[test]
    fn names_are_shown_where_most_bars_have_room() {
        assert!(in_a_row(10).to_svg("").unwrap().contains("name"));
        assert!(!in_a_row(20).to_svg("").unwrap().contains("name"));
    }

    #[test]
    fn process_ids_that_would_overlap_are_left_out() {
        let mut timeline = in_a_row(100);
        for (at_s, pid) in [(50.1, 3), (50.0, 2), (10.0, 1)] {
            timeline.add_kill(Kill {
                worker: "w".into(),
                at_s,
                pid,
            });
        }
        let svg = timeline.to_svg("").unwrap();
        let shown = [1, 2, 3].map(|pid| svg.contains(&format!("pid {pid}")));
        assert_eq!(shown, [true, true, false], "{svg}");
    }

    #[test]
    fn titles_and_names_cannot_break_the_document() {
        let mut timeline = Timeline::default();
        let what = "a\x1b<b>\n".to_owned();
        timeline.add_task(TaskSpan {
            what,
            ..task("<w>&\0", 0.0, 1.0, Outcome::Acked)
        });
        let svg = timeline.to_svg("</svg>").unwrap();
        assert_eq!(svg.matches("</svg>").count(), 1, "{svg}");
        assert!(svg.contains("&lt;w&gt;&amp;\u{fffd}"), "{svg}");
        assert!(svg.chars().all(|c| c == '\n' || !c.is_control()), "{svg:?}");
    }

    #[test]
    fn empty_and_invalid_timelines_can_be_drawn() {
        assert!(
            Timeline::default()
                .to_svg("Nothing")
                .unwrap()
                .contains("Nothing")
        );
        let mut timeline = Timeline::default();
        for (start_s, end_s) in [
            (f64::NAN, 1.0),
            (2.0, -1.0),
            (0.0, f64::INFINITY),
            (1e-300, 0.0),
        ] {
            timeline.add_task(task("w", start_s, end_s, Outcome::Acked));
        }
        assert!(timeline.to_svg("Nonsense").is_ok());
    }

    /// Four workers, one of which is killed in the middle of the run.
    fn run(tasks: u32) -> Timeline {
        let mut timeline = Timeline::default();
        for i in 0..tasks {
            let (worker, start_s) = (format!("worker-{}", i % 4), f64::from(i / 4));
            let outcome = if i == tasks / 2 {
                Outcome::Lost
            } else {
                Outcome::Acked
            };
            timeline.add_task(task(&worker, start_s, start_s + 0.9, outcome));
        }
        let (worker, at_s) = ("worker-1".to_owned(), f64::from(tasks / 8));
        timeline.add_kill(Kill {
            worker: worker.clone(),
            at_s,
            pid: 4242,
        });
        timeline.add_redelivery(Redelivery {
            worker,
            at_s: at_s + 1.0,
            what: String::new(),
        });
        timeline
    }

    /// One worker, one task of one second after the other.
    fn in_a_row(tasks: u32) -> Timeline {
        let mut timeline = Timeline::default();
        for start_s in (0..tasks).map(f64::from) {
            let what = "a/name".to_owned();
            let task = task("w", start_s, start_s + 1.0, Outcome::Acked);
            timeline.add_task(TaskSpan { what, ..task });
        }
        timeline
    }

    fn fill(RGBColor(r, g, b): RGBColor) -> String {
        format!("fill=\"#{r:02X}{g:02X}{b:02X}\"")
    }
}
