// Arguments of the sampler.
#pragma once

struct SampleParams {
  float temperature;  // 0: the largest logit
  unsigned top_k;     // 0: all
  float typical_p;    // 1: all
  float top_p;        // 1: all
  float min_p;
  float repeat_penalty;
  float frequency_penalty;
  float presence_penalty;
  float uniform;  // of [0, 1), for the draw
  // Of the tokens that were seen, the row's: [first_seen, last_seen).
  unsigned first_seen;
  unsigned last_seen;
};
