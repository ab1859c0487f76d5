// For keyboards and readers of the screen: wide tables can be scrolled by keys, and each code block's bar has its own name.
function complete() {
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((part) => (part.tabIndex = 0));
  document.querySelectorAll(".md-code__nav").forEach((bar, number) => bar.setAttribute("aria-label", `Code ${number + 1}`));
}
new MutationObserver(complete).observe(document.body, { childList: true, subtree: true });
complete();
