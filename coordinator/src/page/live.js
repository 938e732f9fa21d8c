(() => {
  const status = document.getElementById("live");
  const open = () => [...document.querySelectorAll("details[open]")].map((d) => d.id);
  const selected = (node) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(node, true);
  };
  // What a person is at stays as it is until they let go of it.
  const inUse = (node) => selected(node) || node.contains(document.activeElement);
  const scrolls = (node) => [...node.querySelectorAll("pre, .scroll")];
  // Pages of one kind have the same sections in the same order.
  function renew(now, next) {
    const fresh = [...next.children];
    fresh.forEach((section, i) => {
      const old = now.children[i];
      if (old === undefined) return now.append(section);
      if (old.outerHTML === section.outerHTML || inUse(old)) return;
      const places = scrolls(old).map((part) => [part.scrollLeft, part.scrollTop]);
      old.replaceWith(section);
      scrolls(section).forEach((part, j) => places[j] && part.scrollTo(...places[j]));
    });
    while (now.children.length > fresh.length) now.lastElementChild.remove();
  }
  async function refresh() {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (answer.status === 401) {
        status.textContent = "the coordinator asks for its token: run qlora-ctl page";
        return;
      }
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = fresh.getElementById("main");
      open().forEach((id) => next.querySelector("#" + id)?.setAttribute("open", ""));
      renew(document.getElementById("main"), next);
      status.textContent = "live";
    } catch {
      status.textContent = "coordinator away, trying again";
    }
  }
  setInterval(refresh, 2000);
})();
