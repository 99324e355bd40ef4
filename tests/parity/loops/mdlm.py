"""The reverse process of masked diffusion: MDLM, Sahoo et al., 2406.07524; first-hitting, Zheng et al., 2409.02908."""

from __future__ import annotations

from parity.loops.canvas import Canvas, best


def ancestral(model, tokens, *, mask, steps, uniform, real=float):
    """Times 1, 1 - 1/S, ..., 0 under the linear noise schedule: a mask alive at time t survives until s with probability s/t,
    else it takes a token of the model's distribution; at time 0 no mask is left.

    Deviations: tokens are the most probable ones, not drawn (their law is tested elsewhere); survival and token are two
    draws (published, one draw over the vocabulary and the mask, of the same law); the published times end at 1e-5 and
    one more forward removes the noise that is left, here the last step does; steps in which every mask survives cost no
    forward, as in the published `ddpm_cache`, which finds them afterwards.

    Args:
        uniform: a function of position and step.
        real: of the times; published, float32.
    """
    canvas = Canvas(model, tokens, mask)

    def alive(time):
        return real(1) - (real(1) - real(time))

    for step in range(steps):
        t, s = (steps - step) / steps, (steps - step - 1) / steps
        ends = [i for i in canvas.masked() if uniform(i, step) < 1 - alive(s) / alive(t)]
        if not ends:
            continue
        p = canvas.predict()
        for i in ends:
            canvas.write(i, p[i].argmax())
    return canvas


def first_hitting(model, tokens, *, mask, uniform, uniform_time):
    """The same process seen from its events: with n masks the next is filled at time t u^(1/n), and it is any of them with
    equal probability. As many forwards as masks, no time grid.

    Deviation: tokens are the most probable ones, not drawn.

    Returns:
        The canvas, and the time of each edit.

    Args:
        uniform: a function of position and forward; the highest is filled.
        uniform_time: a function of the forward.
    """
    canvas = Canvas(model, tokens, mask)
    time, times = 1.0, []
    while masked := canvas.masked():
        p = canvas.predict()
        time *= uniform_time(canvas.forwards - 1) ** (1 / len(masked))
        (i,) = best({i: uniform(i, canvas.forwards - 1) for i in masked}, 1)
        canvas.write(i, p[i].argmax())
        times.append(time)
    return canvas, times
