"""Reference: ∂L/∂W₂ of a ReLU network with dropout by autograd, a mask at a time; all masks of a tiny one."""

import itertools

import numpy as np
import torch


def logits(weights, biases, x, kept, keep_prob):
    """kept: per hidden layer an (N, width) array of 0 and 1."""
    hidden = x
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = hidden @ weight.T + bias
        if layer < len(weights) - 1:
            hidden = torch.clamp(hidden, min=0) * torch.as_tensor(kept[layer], dtype=x.dtype) / keep_prob
    return hidden


def second_layer_gradient(weights, biases, x, y, kept, keep_prob):
    """d(mean cross-entropy)/dW₂ as a NumPy array."""
    weights = [weight.detach().clone().requires_grad_(index == 1) for index, weight in enumerate(weights)]
    out = logits(weights, biases, x, kept, keep_prob)
    loss = -torch.log_softmax(out, dim=1)[torch.arange(len(y)), y].mean()
    return torch.autograd.grad(loss, weights[1])[0].numpy()


def all_masks_std(weights, biases, x, y, keep_prob):
    """Standard deviation over all masks of all hidden layers, each with its probability; float64."""
    n, widths = len(x), [weight.shape[0] for weight in weights[:-1]]
    probabilities, gradients = [], []
    for bits in itertools.product((0, 1), repeat=n * sum(widths)):
        kept, at = [], 0
        for width in widths:
            kept.append(np.reshape(bits[at : at + n * width], (n, width)))
            at += n * width
        probabilities.append(keep_prob ** sum(bits) * (1 - keep_prob) ** (len(bits) - sum(bits)))
        gradients.append(second_layer_gradient(weights, biases, x, y, kept, keep_prob))
    probabilities, gradients = np.array(probabilities), np.array(gradients, dtype=np.float64)
    mean = np.tensordot(probabilities, gradients, 1)
    return mean, np.sqrt(np.tensordot(probabilities, (gradients - mean) ** 2, 1))


def linear_all_masks_std(x, y, w, keep_prob):
    """Std over all output masks of d‖Y − (XW)⊙V‖²/dW by autograd."""
    probabilities, gradients = [], []
    for bits in itertools.product((0, 1), repeat=y.size):
        mask = torch.as_tensor(np.reshape(bits, y.shape) / keep_prob)
        weights = torch.as_tensor(w).clone().requires_grad_(True)
        loss = ((torch.as_tensor(y) - (torch.as_tensor(x) @ weights) * mask) ** 2).sum()
        gradients.append(torch.autograd.grad(loss, weights)[0].numpy())
        probabilities.append(keep_prob ** sum(bits) * (1 - keep_prob) ** (len(bits) - sum(bits)))
    probabilities, gradients = np.array(probabilities), np.array(gradients)
    mean = np.tensordot(probabilities, gradients, 1)
    return np.sqrt(np.tensordot(probabilities, (gradients - mean) ** 2, 1))


def two_pass(gradients):
    """Mean and unbiased standard deviation over axis 0, two passes in float64."""
    gradients = np.asarray(gradients, dtype=np.float64)
    mean = gradients.mean(axis=0)
    return mean, np.sqrt(((gradients - mean) ** 2).sum(axis=0) / (len(gradients) - 1))


def exact_moments(model):
    """Mean and standard deviation of each entry: E G = Σ_v P(v) G(v), P(v) = Π p^{v_j}(1 − p)^{1 − v_j}, two passes."""
    size, keep = model.mask_size, model.keep_prob
    codes = np.arange(2**size)[:, None] >> np.arange(size) & 1
    weights = np.prod(np.where(codes == 1, keep, 1 - keep), axis=1)
    gradients = torch.einsum("kni,knj->kij", *model.factors(torch.as_tensor(codes, dtype=torch.bool))).double().numpy()
    mean = np.tensordot(weights, gradients, 1)
    return mean, np.sqrt(np.tensordot(weights, (gradients - mean) ** 2, 1))
