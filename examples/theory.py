"""The linear model behind it: the predicted risk over the mask ratio, a simulation beside it, and the best ratio."""

from r2mae_theory import Fixed, covariance, optimal_ratio, predict_risk, simulate_risk

spiked = covariance.spiked(200, strength=20)
beta = spiked.directions[:, 0]
for ratio in (0.1, 0.3, 0.5, 0.7, 0.9):
    predicted = predict_risk(spiked, beta, sigma=0.5, n=100, mask=Fixed(ratio)).normalized
    measured = simulate_risk(spiked, beta, 0.5, 100, Fixed(ratio), n_repeats=20)
    print(f"ratio {ratio:g}: risk over the null risk, predicted {predicted:.3f}, simulated {measured.normalized:.3f}")
best = optimal_ratio(spiked, beta, 0.5, 100).mask
print("best:", best)
