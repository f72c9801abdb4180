// Arguments of the kernels that prepare images.
#pragma once

// Where a result of a pass takes its inputs from: weights[out * window] on, for inputs first[out] to
// first[out] + count[out].
struct ResizeParams {
  unsigned height;  // of the result
  unsigned width;
  unsigned channels;
  unsigned in_height;
  unsigned in_width;
  unsigned window;  // weights of an output, at most
  unsigned vertical;
};

struct ConvertParams {
  unsigned pixels;
  unsigned in_channels;   // 1, 3 or 4
  unsigned out_channels;  // 1 or 3
  unsigned swap;          // RGB to BGR or back
  unsigned background;    // what shows through where there is alpha: R | G << 8 | B << 16
};

struct PlaceParams {
  unsigned height;  // of the result
  unsigned width;
  unsigned channels;
  unsigned in_height;
  unsigned in_width;
  int top;  // of the input in the result; negative: cropped
  int left;
  unsigned fill;  // around it: c-th channel in bits 8c
};

struct PatchParams {
  unsigned height;  // of the image, whole patches
  unsigned width;
  unsigned channels;
  unsigned patch;
  unsigned merge;     // neighbouring patches lie together, merge x merge of them; 1: row by row
  unsigned temporal;  // times that each patch is repeated, as a still image among frames
  float scale;        // on 8-bit values, before mean and deviation
  float mean[4];
  float inverse[4];  // 1 / deviation
};
