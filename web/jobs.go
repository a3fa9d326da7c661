package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"engramfs/store"
)

// JobSpec is long work that an administrator can start and stop.
type JobSpec struct {
	Name  string // in URLs, such as check
	Title string // for people
	Doc   string // one sentence: what it does and what it costs
	Unit  string // of progress: bytes, inodes; "" for none
	// Run does the work until it is done or ctx ends. It calls progress at will
	// with what is done and in all, negative for unknown. The problems are
	// what it found wrong; the error is that it could not finish.
	Run func(ctx context.Context, progress func(done, total int64)) (problems []string, err error)
	// State tells of runs of work that also runs without being started here: what
	// runs, what ended last, and what begins by itself; nil: none. Stop stops such
	// a run, and reports whether there was one; the error is that it may not have done
	// so yet. nil: all runs are started here. Neither waits for a lock of the store.
	State func() (running, last *Run, next *Next)
	Stop  func() (bool, error)
}

// Next is a run that begins by itself.
type Next struct {
	At time.Time `json:"at"`
}

// startedByKey holds the name of who started a run.
type startedByKey struct{}

// startedBy returns who started the run whose context is ctx.
func startedBy(ctx context.Context) string {
	by, _ := ctx.Value(startedByKey{}).(string)
	return by
}

// Job is one kind of long work, as the API shows it.
type Job struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Doc     string `json:"doc"`
	Running *Run   `json:"running"` // null: it is not
	Last    *Run   `json:"last"`    // null: not known to have run since the server's start
	Next    *Next  `json:"next"`    // null: it does not begin by itself
}

// Run is one run of a job. What is not known is null.
type Run struct {
	By       string     `json:"by"`
	Started  time.Time  `json:"started"`
	Ended    *time.Time `json:"ended"`
	Result   *string    `json:"result"` // clean, problems, stopped or failed
	Error    string     `json:"error,omitempty"`
	Unit     string     `json:"unit,omitempty"`
	Done     *int64     `json:"done"`
	Total    *int64     `json:"total"`
	Rate     *float64   `json:"rate_per_second"`
	TimeLeft *float64   `json:"time_left_seconds"`
	Found    *int       `json:"found"`    // problems; null while it runs
	Problems []string   `json:"problems"` // the first of them
}

// maxProblems bounds the problems of a run that are kept.
const maxProblems = 1000

// jobs runs each job at most once at a time.
type jobs struct {
	// Immutable after newJobs.
	ctx   context.Context
	now   func() time.Time
	log   *slog.Logger
	specs []JobSpec
	ended func(spec JobSpec, run Run) // called after each run

	running sync.WaitGroup

	// mu protects the field below.
	mu sync.Mutex

	state map[string]*jobState
}

type jobState struct {
	run     *Run // nil: idle
	cancel  context.CancelFunc
	stopped bool
	last    *Run
}

func newJobs(ctx context.Context, now func() time.Time, log *slog.Logger, specs []JobSpec, ended func(JobSpec, Run)) *jobs {
	j := &jobs{ctx: ctx, now: now, log: log, specs: specs, ended: ended, state: map[string]*jobState{}}
	for _, s := range specs {
		j.state[s.Name] = &jobState{}
	}
	return j
}

func (j *jobs) find(name string) (JobSpec, error) {
	for _, s := range j.specs {
		if s.Name == name {
			return s, nil
		}
	}
	return JobSpec{}, errNoJob
}

// start begins a run, which goes on when its request has ended.
func (j *jobs) start(name, by string) error {
	spec, err := j.find(name)
	if err != nil {
		return err
	}
	elsewhere := spec.elsewhere() // takes its time, so without mu
	j.mu.Lock()
	defer j.mu.Unlock()
	st := j.state[name]
	if st.run != nil || elsewhere {
		return errJobRunning
	}
	if j.ctx.Err() != nil {
		return errClosing
	}
	ctx, cancel := context.WithCancel(context.WithValue(j.ctx, startedByKey{}, by))
	st.run, st.cancel, st.stopped = &Run{By: by, Started: j.now().UTC(), Unit: spec.Unit, Problems: []string{}}, cancel, false
	j.running.Add(1)
	go j.work(ctx, spec, st)
	return nil
}

func (j *jobs) work(ctx context.Context, spec JobSpec, st *jobState) {
	defer j.running.Done()
	var problems []string
	err := errors.New("the job ended its goroutine")
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
		j.ended(spec, j.finish(spec, st, problems, err))
	}()
	problems, err = spec.Run(ctx, func(done, total int64) { j.progress(st, done, total) })
}

func (j *jobs) progress(st *jobState, done, total int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if st.run == nil {
		return // a stray goroutine of a run that has ended
	}
	st.run.note(j.now(), done, total)
}

// note works out the rate and the time left from the run's whole life: a run is
// long, and its average is steadier than its last second.
func (r *Run) note(now time.Time, done, total int64) {
	r.Done, r.Total, r.Rate, r.TimeLeft = nil, nil, nil, nil
	if total >= 0 {
		r.Total = &total
	}
	if done < 0 {
		return
	}
	r.Done = &done
	took := now.Sub(r.Started).Seconds()
	if took <= 0 || done == 0 {
		return
	}
	rate := float64(done) / took
	r.Rate = &rate
	if total >= done {
		left := float64(total-done) / rate
		r.TimeLeft = &left
	}
}

func (j *jobs) finish(spec JobSpec, st *jobState, problems []string, err error) Run {
	j.mu.Lock()
	defer j.mu.Unlock()
	st.cancel()
	run, now, found := st.run, j.now().UTC(), len(problems)
	run.Ended, run.TimeLeft = &now, nil
	result := "clean"
	switch {
	case st.stopped || err != nil && j.ctx.Err() != nil:
		result = "stopped"
	case err != nil:
		result, run.Error = "failed", "see the server's log"
	case found > 0:
		result = "problems"
	}
	if result == "clean" || result == "problems" {
		run.Found = &found
	}
	run.Result, run.Problems = &result, append(run.Problems, problems[:min(found, maxProblems)]...)
	st.run, st.last = nil, run
	j.log.Info("job ended", "job", spec.Name, "result", result, "problems", found, "took", now.Sub(run.Started), "by", run.By, "err", err)
	return *run
}

func (j *jobs) stop(name string) error {
	spec, err := j.find(name)
	if err != nil {
		return err
	}
	if j.stopOwn(name) {
		return nil
	}
	stopped := false
	if spec.Stop != nil {
		stopped, err = spec.Stop()
	}
	if err == nil && !stopped {
		err = errJobIdle
	}
	return err
}

// stopOwn stops a run that was started here, and reports whether there is one.
func (j *jobs) stopOwn(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := j.state[name]
	if st.run == nil {
		return false
	}
	st.stopped = true
	st.cancel()
	return true
}

// wait returns once no job runs. The context has ended, so that none begins
// after whoever holds mu now.
func (j *jobs) wait() {
	j.mu.Lock()
	j.mu.Unlock() //nolint:staticcheck // waits for a start that has looked at the context before
	j.running.Wait()
}

func (j *jobs) list() []Job {
	list := []Job{}
	for _, s := range j.specs {
		list = append(list, j.show(s))
	}
	return list
}

func (j *jobs) show(s JobSpec) Job {
	job := j.own(s)
	if s.State != nil {
		running, last, next := s.State()
		job.tell(running, last, next)
	}
	return job
}

// own is a job as far as it is known here.
func (j *jobs) own(s JobSpec) Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := j.state[s.Name]
	return Job{Name: s.Name, Title: s.Title, Doc: s.Doc, Running: st.run.copy(), Last: st.last.copy()}
}

// tell adds what the work itself knows of its runs. The times of a run that was
// started here stay those of here, by which its starter knows it.
func (j *Job) tell(running, last *Run, next *Next) {
	j.Next = next
	switch {
	case running != nil && j.Running != nil:
		running.Started, running.By = j.Running.Started, j.Running.By
		j.Running = running
	case running != nil:
		j.Running = running
	}
	switch {
	case last == nil:
	case j.Last == nil || last.Ended.After(*j.Last.Ended): // was not started here
		j.Last = last
	case !last.Ended.Before(j.Last.Started): // the same one, and it knows more of it
		last.Started, last.By = j.Last.Started, j.Last.By
		j.Last = last
	}
}

// elsewhere reports whether a run is under way that was not started here.
func (s *JobSpec) elsewhere() bool {
	if s.State == nil {
		return false
	}
	running, _, _ := s.State()
	return running != nil
}

func (r *Run) copy() *Run {
	if r == nil {
		return nil
	}
	c := *r
	return &c
}

// jobSpecs are the jobs of this server: the store's check, and the options'.
func (a *Server) jobSpecs() []JobSpec {
	var specs []JobSpec
	if c, ok := a.store.(checker); ok {
		specs = append(specs, JobSpec{
			Name: "check", Title: "Check",
			Unit: "records",
			Doc:  "Compares every record with every other and with the inodes in memory. Changes nothing; does not read the content of files.",
			Run: func(ctx context.Context, progress func(done, total int64)) ([]string, error) {
				findings, err := c.Check(ctx, store.CheckOptions{Progress: progress})
				problems := make([]string, len(findings))
				for i, f := range findings {
					problems[i] = f.String()
				}
				return problems, err
			},
		})
	}
	if s, ok := a.store.(scrubber); ok {
		specs = append(specs, a.scrubSpec(s))
	}
	return append(specs, a.o.Jobs...)
}

// jobEnded leaves a line in the audit log, which outlives this process.
func (a *Server) jobEnded(spec JobSpec, run Run) {
	line := AuditLine{
		ID: newID(), At: *run.Ended, Actor: run.By, Via: "server", Action: "job.end", Target: spec.Name,
		Facts: map[string]any{"started": run.Started, "problems": run.Found}, Result: *run.Result,
	}
	_ = a.record(line) // logged there
}

// JobList is the answer of GET /api/v1/jobs.
type JobList struct {
	Jobs []Job `json:"jobs"`
}

func (a *Server) jobOperations() []operation {
	return []operation{
		get("/api/v1/jobs", "listJobs", "jobs", "Long work: what there is, what runs, how it ended last", a.getJobs),
		get("/api/v1/jobs/{name}", "getJob", "jobs", "One job, with progress or last result", a.getJob),
		post("/api/v1/jobs/{name}/start", "startJob", "jobs", "Start a job; it runs on when the request has ended", a.postStart),
		post("/api/v1/jobs/{name}/stop", "stopJob", "jobs", "Stop a job", a.postStop),
	}
}

func (a *Server) getJobs(http.ResponseWriter, *http.Request) (JobList, error) {
	return JobList{a.jobs.list()}, nil
}

func (a *Server) getJob(_ http.ResponseWriter, r *http.Request) (Job, error) {
	name, err := pathParam(r, "name")
	if err != nil {
		return Job{}, err
	}
	spec, err := a.jobs.find(name)
	if err != nil {
		return Job{}, err
	}
	return a.jobs.show(spec), nil
}

func (a *Server) postStart(w http.ResponseWriter, r *http.Request, _ none) (Job, error) {
	return a.jobAction(w, r, "job.start", func(name string) error { return a.jobs.start(name, whoIs(r).name) })
}

func (a *Server) postStop(w http.ResponseWriter, r *http.Request, _ none) (Job, error) {
	return a.jobAction(w, r, "job.stop", a.jobs.stop)
}

func (a *Server) jobAction(w http.ResponseWriter, r *http.Request, verb string, fn func(name string) error) (Job, error) {
	name, err := pathParam(r, "name")
	if err != nil {
		return Job{}, err
	}
	if _, err := a.jobs.find(name); err != nil {
		return Job{}, err
	}
	if err := a.do(r, action{name: verb, target: name}, func(*action) error { return fn(name) }); err != nil {
		return Job{}, err
	}
	return a.getJob(w, r)
}
