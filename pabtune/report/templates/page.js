// Both videos of a pair run together: where one is started, paused or moved, the other follows.
for (const pair of document.querySelectorAll(".pair")) {
  const videos = [...pair.querySelectorAll("video")];
  for (const video of videos) {
    const others = videos.filter((each) => each !== video);
    video.addEventListener("play", () => others.forEach((each) => {
      if (each.paused) { each.currentTime = video.currentTime; each.play().catch(() => {}); }
    }));
    video.addEventListener("pause", () => others.forEach((each) => { if (!each.paused) each.pause(); }));
    video.addEventListener("seeked", () => others.forEach((each) => {
      if (video.paused && Math.abs(each.currentTime - video.currentTime) > 0.05) each.currentTime = video.currentTime;
    }));
  }
}
// They start when they come into sight, unless the reader has asked for less motion.
if (!matchMedia("(prefers-reduced-motion: reduce)").matches && "IntersectionObserver" in window) {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const video = entry.target.querySelector("video");
      if (entry.isIntersecting) video.play().catch(() => {}); else video.pause();
    }
  }, { threshold: 0.4 });
  document.querySelectorAll(".pair").forEach((pair) => seen.observe(pair));
}
