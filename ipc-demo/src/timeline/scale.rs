//! The layout of the picture: from seconds and lanes to whole pixels.
//!
//! It also decides what there is room for. It is the same for all lanes, so that they can be
//! compared.

use super::Lane;

/// The proportions of one picture, in pixels.
pub(super) struct Scale {
    /// The time at the right end of the axis.
    pub(super) end_s: f64,
    lanes: i32,
    pub(super) lane_height: i32,
    /// Set if most bars have room for a gap to the next. If few had, those gaps would mean nothing.
    pub(super) has_gaps: bool,
    /// Set if most bars have room for the name of their task. If few had, those names would only
    /// distract.
    pub(super) has_names: bool,
}

impl Scale {
    pub(super) fn new(last_s: f64, lanes: &[Lane]) -> Self {
        // Room behind the last event, and a scale even if there is none.
        let end_s = if last_s > 0.0 { last_s * 1.02 } else { 1.0 };
        let height = (600 / lanes.len().max(1)).clamp(14, 58);
        let tasks = lanes.iter().map(|lane| lane.tasks.len()).max().unwrap_or(0);
        Self {
            end_s,
            lanes: lanes.len().max(1) as i32,
            lane_height: height as i32,
            has_gaps: tasks * GAP_WORTHY_PIXELS <= PLOT_WIDTH as usize,
            has_names: height >= ROOMY && tasks * USUAL_NAME_PIXELS <= PLOT_WIDTH as usize,
        }
    }

    pub(super) fn height(&self) -> u32 {
        (TOP + self.lanes * self.lane_height + BOTTOM) as u32
    }

    pub(super) fn x(&self, at_s: f64) -> i32 {
        LEFT + (at_s.clamp(0.0, self.end_s) / self.end_s * f64::from(PLOT_WIDTH)).round() as i32
    }

    pub(super) fn seconds_per_pixel(&self) -> f64 {
        self.end_s / f64::from(PLOT_WIDTH)
    }

    pub(super) fn lane_top(&self, index: usize) -> i32 {
        TOP + index as i32 * self.lane_height
    }

    /// The upper part of a lane is for marks; the rest, except for a margin, is for bars.
    pub(super) fn bar_top(&self, index: usize) -> i32 {
        self.lane_top(index) + self.lane_height * 2 / 5
    }

    pub(super) fn bar_bottom(&self, index: usize) -> i32 {
        self.lane_top(index) + self.lane_height - self.lane_height / 8
    }

    pub(super) fn bar_middle(&self, index: usize) -> i32 {
        self.bar_top(index).midpoint(self.bar_bottom(index))
    }

    /// Half the size of a mark.
    pub(super) fn mark_radius(&self) -> i32 {
        (self.lane_height / 8).clamp(3, 6)
    }

    pub(super) fn is_roomy(&self) -> bool {
        self.lane_height >= ROOMY as i32
    }
}

pub(super) const WIDTH: u32 = 1200;
pub(super) const PLOT_WIDTH: i32 = WIDTH as i32 - LEFT - RIGHT;
/// The margin for the names of the workers.
pub(super) const LEFT: i32 = 150;
/// The margin for what each worker did.
pub(super) const RIGHT: i32 = 140;
/// The margin for title and legend.
pub(super) const TOP: i32 = 88;
/// The margin for the axis.
pub(super) const BOTTOM: i32 = 50;

/// A lane of this height has room for words within.
const ROOMY: usize = 36;
/// The width from which a bar can spare a pixel.
const GAP_WORTHY_PIXELS: usize = 6;
/// The usual width of a file's name.
const USUAL_NAME_PIXELS: usize = 60;
