(() => {
  const status = document.getElementById("live");
  const open = () => [...document.querySelectorAll("details[open]")].map((d) => d.id);
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
      const now = document.getElementById("main");
      const next = fresh.getElementById("main");
      open().forEach((id) => next.querySelector("#" + id)?.setAttribute("open", ""));
      if (now.innerHTML !== next.innerHTML) now.replaceWith(next);
      status.textContent = "live";
    } catch {
      status.textContent = "coordinator away, trying again";
    }
  }
  setInterval(refresh, 2000);
})();
