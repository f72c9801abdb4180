"""The random weights of the small models that scripts here make, so that every part of a model shows in its logits."""


def randomize(model, name, routers, choice_bias):
    """Of a model as its configuration begins it. routers: ends of the names of routers' weights; choice_bias: least and
    most of the biases that a router's choice alone sees."""
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            parameter.normal_(0, 0.2)
        elif parameter_name.endswith(routers):
            parameter.normal_(0, 0.3)
        elif parameter_name.endswith("sinks"):
            parameter.normal_(1, 1)
        elif parameter_name.endswith("router.scale"):
            parameter.normal_(6, 1)  # choices that differ by more than roundings
        elif parameter_name.endswith("per_expert_scale"):
            parameter.uniform_(0.5, 1.5)
        elif name.startswith("gemma4") and parameter_name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.normal_(0.5, 0.1)  # scores are not scaled
        elif "norm" in parameter_name:  # Gemma's weights are one less than what is multiplied by, up to Gemma 3
            parameter.normal_(0 if name.startswith(("gemma2", "gemma3")) else 1, 0.2)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("e_score_correction_bias"):
            buffer.uniform_(*choice_bias)
        elif buffer_name.endswith("layer_scalar"):
            buffer.uniform_(0.7, 1.2)
