//! Where things lie in the images, the columns and the outputs of a convolution.

use burn::tensor::{Shape, ops::ConvOptions};

use crate::domain::network::Conv2dSpec;

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) out: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Geometry {
    /// Of a layer whose input is `[channels, height, width]`.
    pub fn new(spec: &Conv2dSpec, [channels, height, width]: [usize; 3]) -> Self {
        let Conv2dSpec { out, kernel, stride, padding } = *spec;
        Self { channels, height, width, out, kernel, stride, padding }
    }

    /// Sides of an image with its padding.
    pub(super) fn padded(&self) -> [usize; 2] {
        [self.height, self.width].map(|side| side + 2 * self.padding)
    }

    /// Sides of an output.
    pub(super) fn sides_after(&self) -> [usize; 2] {
        self.padded().map(|side| (side - self.kernel) / self.stride + 1)
    }

    /// Numbers of an image.
    pub(super) fn image(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Numbers of an output.
    pub(super) fn output(&self) -> usize {
        self.out * self.sides_after().iter().product::<usize>()
    }

    /// Weights of one output channel, without its bias.
    pub(super) fn fan_in(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    /// Positions of the kernel as it slides over a padded plane without a stop at the ends of its
    /// lines: what it sees at one position after the other is then a run of the plane. Between two
    /// lines of the output lie `kernel - 1` positions that count for nothing.
    pub(super) fn positions(&self) -> usize {
        let [lines, line] = self.sides_after();
        (lines - 1) * self.padded()[1] + line
    }

    pub(super) fn options(&self) -> ConvOptions<2> {
        ConvOptions::new([self.stride; 2], [self.padding; 2], [1; 2], 1)
    }

    pub(super) fn images_shape(&self, batch: usize) -> Shape {
        Shape::new([batch, self.channels, self.height, self.width])
    }

    pub(super) fn outputs_shape(&self, batch: usize) -> Shape {
        let [height, width] = self.sides_after();
        Shape::new([batch, self.out, height, width])
    }

    /// Where in a padded image the run of a row of the columns starts.
    pub(super) fn start(&self, row: usize) -> usize {
        let [height, width] = self.padded();
        let (x, y) = (row % self.kernel, row / self.kernel % self.kernel);
        let channel = row / (self.kernel * self.kernel);
        (channel * height + y) * width + x
    }

    /// `visit(start in the output, start among its positions, pixels)` for each line.
    pub(super) fn each_line(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let [lines, line] = self.sides_after();
        for channel in 0..self.out {
            for y in 0..lines {
                let position = channel * self.positions() + y * self.padded()[1];
                visit((channel * lines + y) * line, position, line);
            }
        }
    }

    /// `visit(start in the image, start in the padded image)` for each line.
    pub(super) fn each_image_line(&self, mut visit: impl FnMut(usize, usize)) {
        let [height, width] = self.padded();
        for channel in 0..self.channels {
            for y in 0..self.height {
                let padded = (channel * height + y + self.padding) * width + self.padding;
                visit((channel * self.height + y) * self.width, padded);
            }
        }
    }
}
